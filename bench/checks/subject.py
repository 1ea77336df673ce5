"""kernlb's checker on a list of targets, as the daemon runs it: prints a line for each that goes down."""

import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from math import ceil
from pathlib import Path

from kernlb.checker import Change, Checker
from kernlb.checks.spec import Check
from kernlb.engines.check_timeouts import ConntrackOfChecks
from kernlb.entries import Watched
from kernlb.health import Status
from kernlb.model import CheckTimeouts, CheckTimeoutsKey
from kernlb.plan import diff


def say(changes: Sequence[Change[str]]) -> None:
    down = [f"DOWN {change.key}" for change in changes if change.after.status is Status.DOWN]
    if down:
        print("\n".join(down), flush=True)


async def check(targets: Sequence[str], port: int, interval: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    checker: Checker[str] = Checker(say)
    same = Check(interval=interval)
    # As the daemon does where conntrack is at work.
    timeouts = ConntrackOfChecks()
    timeouts.apply(diff({CheckTimeoutsKey(): CheckTimeouts(ceil(interval))}, timeouts.read()))
    checker.replace([Watched(key=each, address=ip_address(each), port=port, checks=(same,)) for each in targets])
    gc.freeze()
    await over.wait()
    checker.close()


if __name__ == "__main__":
    asyncio.run(check(Path(sys.argv[1]).read_text().split(), int(sys.argv[2]), float(sys.argv[3])))
