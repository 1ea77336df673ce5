"""A program as a check, never through a shell: its exit code decides, its output is kept short, nothing outlives it."""

import asyncio
import os
import pwd
import subprocess
from collections.abc import Mapping

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.processes import Household
from kernlb.checks.spec import CommandProbe, Exit
from kernlb.checks.verdict import Code, Orders, Verdict

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIPE = 65536  # bytes taken from the pipe at a time
PACE = 0.01  # seconds between them: a program that floods its output is slowed, not followed
LARGEST_CODE = 255

household = Household()


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, CommandProbe)
    conversation.layer = Code.PROCERR
    starting = asyncio.ensure_future(asyncio.to_thread(_started, conversation, probe))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_abandoned)
        raise
    except LookupError:
        raise Failed(Code.INTERNAL, f"there is no user {probe.user}") from None
    assert process.stdout is not None
    try:
        with process.stdout as pipe:
            os.set_blocking(pipe.fileno(), False)
            output = bytearray()
            draining = asyncio.create_task(_drain(pipe.fileno(), output, probe.output_limit))
            try:
                code = await _exit_code(process)
            finally:
                draining.cancel()
            _take(pipe.fileno(), output, probe.output_limit)
    finally:
        await asyncio.to_thread(household.clear_out, process)
    conversation.first_byte()
    return _verdict(conversation, probe, code, _first_line(output))


def _started(conversation: Conversation, probe: CommandProbe) -> "subprocess.Popen[bytes]":
    target = conversation.target
    words = {"{address}": str(target.address), "{port}": str(target.port)}
    environment: Mapping[str, str] = {
        "PATH": PATH,
        "LANG": "C",
        "KERNLB_ADDRESS": str(target.address),
        "KERNLB_PORT": str(target.port),
    }
    account = None if probe.user is None else pwd.getpwnam(probe.user)
    return household.start(
        [_filled(argument, words) for argument in probe.argv],
        environment=environment,
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
    )


def _filled(argument: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        argument = argument.replace(word, value)
    return argument


def _abandoned(starting: "asyncio.Future[subprocess.Popen[bytes]]") -> None:
    """The time was up before the program had started."""
    if not starting.cancelled() and starting.exception() is None:
        process = starting.result()
        if process.stdout is not None:
            process.stdout.close()
        household.clear_out(process)


async def _exit_code(process: "subprocess.Popen[bytes]") -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    try:
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
        return process.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _drain(descriptor: int, output: bytearray, limit: int) -> None:
    while _take(descriptor, output, limit):
        await asyncio.sleep(PACE)


def _take(descriptor: int, output: bytearray, limit: int) -> bool:
    """Whether more may come."""
    try:
        data = os.read(descriptor, PIPE)
    except BlockingIOError:
        return True
    output += data[: max(limit - len(output), 0)]
    return bool(data)


def _first_line(output: bytearray) -> str:
    line = bytes(output).strip().partition(b"\n")[0].decode("utf-8", "replace")
    return "".join(letter for letter in line if letter.isprintable())[:120]


def _verdict(conversation: Conversation, probe: CommandProbe, code: int, said: str) -> Verdict:
    reason = f"signal {-code}" if code < 0 else f"exit code {code}"
    reason = f"{reason}: {said}" if said else reason
    if code == 0:
        return conversation.up(Code.PROCOK, said)
    if probe.exit is Exit.WEIGHT and 2 <= code <= LARGEST_CODE:
        return conversation.up(Code.PROCOK, reason, orders=Orders(weight=code - 2))
    return conversation.down(Code.PROCERR, reason)
