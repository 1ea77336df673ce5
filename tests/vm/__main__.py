"""`python -m tests.vm -- COMMAND`: run a command in a guest kernel that has IPVS: QEMU's, or User Mode Linux.

The command runs as root over this machine's files; what it writes vanishes, except under --share. Its output and exit
status are passed through. Exit status 124: the time was up; 125: the guest itself failed.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.features import Feature, absent
from tests.vm import guest, uml
from tests.vm.errors import GuestError
from tests.vm.initramfs import initramfs
from tests.vm.kernel import Filesystem, Kernel, kernel


def main() -> int:
    options = _options()
    if options.unless_ipvs and options.command and not absent(Feature.IPVS):
        os.execvp(options.command[0], options.command)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        started = time.monotonic()
        if not options.command:
            chosen, _ = _prepared(options)
            print(f"vm: kernel {chosen.release} is ready", file=sys.stderr)
            return 0
        job = guest.Job(
            command=options.command,
            directory=Path.cwd(),
            environment=_environment(options.env),
            shared=[path.resolve(strict=True) for path in options.share],
            timeout=options.timeout,
            memory=options.memory,
            cpus=options.cpus,
            kvm=options.kvm,
            merge_output=os.path.sameopenfile(1, 2),
        )
        status = _run(job, options)
        if options.verbose:
            print(f"vm: status {status} after {time.monotonic() - started:.2f} s", file=sys.stderr)
        return status
    except GuestError as error:
        print(f"vm: {error}", file=sys.stderr)
        return error.status
    except FileNotFoundError as error:
        print(f"vm: {error.filename}: no such directory", file=sys.stderr)
        return GuestError.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(job: guest.Job, options: argparse.Namespace) -> int:
    if options.uml:
        return uml.run(job, stdout=sys.stdout.buffer, stderr=sys.stderr.buffer)
    chosen, archive = _prepared(options)
    return guest.run(job, kernel=chosen, initramfs=archive, stdout=sys.stdout.buffer, stderr=sys.stderr.buffer)


def _prepared(options: argparse.Namespace) -> tuple[Kernel, Path]:
    chosen = kernel(options.filesystem or guest.best_filesystem())
    return chosen, initramfs(chosen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--share", type=Path, action="append", default=[], metavar="DIRECTORY", help="share read-write")
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]", help="set or pass a variable")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="boot included (300)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="(1024)")
    parser.add_argument("--cpus", type=int, default=1, help="(1, which boots fastest)")
    parser.add_argument("--kvm", action="store_true", help="use KVM; by default TCG, which always works")
    parser.add_argument(
        "--uml", action="store_true", help="User Mode Linux: one processor, not emulated, dear system calls"
    )
    parser.add_argument("--filesystem", type=Filesystem, choices=list(Filesystem), help="(the best there is)")
    parser.add_argument("--unless-ipvs", action="store_true", help="no guest if the running kernel has IPVS")
    parser.add_argument("--verbose", action="store_true", help="say how long it took")
    parser.add_argument("command", nargs="*", help="without one: only fetch and build what a guest needs")
    return parser.parse_args()


def _environment(wanted: list[str]) -> dict[str, str]:
    pairs = [
        (name, value if equals else os.environ.get(name)) for name, equals, value in (w.partition("=") for w in wanted)
    ]
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(os.get_terminal_size(1).columns)} if sys.stdout.isatty() else {}
    return terminal | {name: value for name, value in pairs if value is not None}


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    # An exception, not the default death, so that the guest is stopped and its files are removed.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
