"""A program as a check, never through a shell: its exit code decides, its output is kept short, nothing outlives it."""

import asyncio
import errno
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

from kernlb.checks.dialogue import Conversation, Failed
from kernlb.checks.privileges import BECOME
from kernlb.checks.processes import Household
from kernlb.checks.spec import CommandProbe, Exit
from kernlb.checks.verdict import Code, Orders, Verdict
from kernlb.threads import Shared, begun, beside

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIPE = 65536  # bytes taken from the pipe at a time
PACE = 0.01  # seconds between them: a program that floods its output is slowed, not followed
LARGEST_CODE = 255

household = Household()
_looks: Shared[pwd.struct_passwd | None] = Shared()


async def talk(conversation: Conversation) -> Verdict:
    probe = conversation.target.check.probe
    assert isinstance(probe, CommandProbe)
    conversation.layer = Code.PROCERR
    argv, environment = _words(conversation, probe)
    try:
        account = await _looks.get((argv[0], probe.user), partial(_look, argv[0], probe.user))
    except LookupError:
        raise Failed(Code.INTERNAL, f"there is no user {probe.user}") from None
    starting = begun(partial(_started, argv, environment, account))
    try:
        process = await asyncio.wrap_future(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_abandoned)
        raise
    except PermissionError as error:
        if account is None or error.errno != errno.EPERM:
            raise
        raise Failed(Code.INTERNAL, f"kernlb may not become {probe.user}: {BECOME}") from None
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
        await beside(partial(household.clear_out, process), last=True)
    conversation.first_byte()
    return _verdict(conversation, probe, code, _first_line(output))


def _look(program: str, user: str | None) -> pwd.struct_passwd | None:
    """A mount or a directory of users that does not answer hangs here, not while all programs wait for one to start.
    Raises LookupError."""
    path = shutil.which(program, path=PATH)
    with suppress(OSError):  # told when it is started
        if path is not None:
            with Path(path).open("rb") as file:
                file.read(1)
    return None if user is None else pwd.getpwnam(user)


def _words(conversation: Conversation, probe: CommandProbe) -> tuple[list[str], Mapping[str, str]]:
    """The arguments and the environment."""
    target = conversation.target
    words = {"{address}": str(target.address), "{port}": str(target.port)}
    environment: Mapping[str, str] = {
        "PATH": PATH,
        "LANG": "C",
        "KERNLB_ADDRESS": str(target.address),
        "KERNLB_PORT": str(target.port),
    }
    return [_filled(argument, words) for argument in probe.argv], environment


def _started(
    argv: Sequence[str], environment: Mapping[str, str], account: pwd.struct_passwd | None
) -> "subprocess.Popen[bytes]":
    return household.start(
        argv,
        environment=environment,
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
    )


def _filled(argument: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        argument = argument.replace(word, value)
    return argument


def _abandoned(starting: "Future[subprocess.Popen[bytes]]") -> None:
    """The time was up before the program had started."""
    if starting.exception() is None:
        process = starting.result()
        if process.stdout is not None:
            process.stdout.close()
        begun(partial(household.clear_out, process), last=True)


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
