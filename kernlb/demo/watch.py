"""What the demo claims of the daemon: it finds the dead, spares the slow, drains the leaving, and may end."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from kernlb.demo.director import Daemon, await_that
from kernlb.demo.stage import Outcome, Stage
from kernlb.errors import KernlbError

RATE = 25.0
"""New connections a second, where the machine carries them beside everything else."""
_SPARE = 4.0  # times that rate is what the machine has to be able to do
DELAY = 1.0
"""Much also where the machine itself is slow."""
_SLOW = 1 / 6  # half of what each of three equal servers has
_CALM = 1.5
_DYING = 7.5  # three probes that wait for their whole timeout, at worst


Act = Callable[[Stage, Daemon], Outcome]


def taken_over(stage: Stage, daemon: Daemon) -> Outcome:
    """The daemon has been started already; what it says of the pool is what counts."""
    stage.say("kernlb run takes over, and checks the real servers")
    took = await_that(lambda: _all_up(daemon), "the real servers did not come up")
    status = daemon.client.status()["daemon"]
    figures = f"3 servers up after {took:.1f} s; reconciled: {'yes' if status['reconciled'] else 'no'}"
    return Outcome("a daemon takes over what apply left", figures, bool(status["reconciled"]))


def killed(stage: Stage, daemon: Daemon) -> Outcome:
    rate = max(2.0, min(RATE, 20 / stage.requests(20).seconds / _SPARE))
    stage.say(f"{rate:.0f} new connections a second; server3 is killed, and started again")
    with stage.steady_load(rate=rate) as load:
        time.sleep(_CALM)
        died = time.monotonic()
        stage.kill_server("server3")
        out = await_that(lambda: daemon.statuses()["server3"] == "down", "server3 was not found dead")
        time.sleep(_CALM)
        stage.start_servers("server3")
        await_that(lambda: _all_up(daemon), "server3 did not come back")
        back = time.monotonic()
        time.sleep(2 * _CALM)
        samples = load.stop()
    failed = [sample for sample in samples if sample.failure]
    reasons = ", ".join(sorted({sample.failure or "" for sample in failed}))
    lasted = max((sample.started - died for sample in failed), default=0.0)
    again = sum(sample.server == "server3" and sample.started > back for sample in samples)
    figures = (
        f"{len(failed)} of {len(samples)} requests failed ({reasons or 'none'}), for {lasted:.1f} s; "
        f"out after {out:.1f} s; {again} requests once it was back"
    )
    held = bool(again) and lasted < _DYING and all(died - 1 < sample.started for sample in failed)
    return Outcome("a real server is killed: requests fail only until it is out", figures, held)


def slowed(stage: Stage, daemon: Daemon) -> Outcome:
    stage.say(f"server2 answers {DELAY:g} s later")
    before = _share(stage, "server2")
    stage.delays["server2"].value = DELAY
    began = time.monotonic()
    with suppress(KernlbError):  # The requests will tell.
        await_that(lambda: _weight_share(daemon, "server2") < _SLOW, "server2 kept its weight")
    took = time.monotonic() - began
    after = _share(stage, "server2")
    stage.delays["server2"].value = 0.0
    figures = f"{before:.0%} of the requests before, {after:.0%} after {took:.1f} s"
    return Outcome("a slow real server gets fewer requests (least-response-time)", figures, after < before * 0.75)


def drained(stage: Stage, daemon: Daemon) -> Outcome:
    stage.say("kernlb drain api server1, under keep-alive load")
    with stage.load(parallel=6, lifetime=2.0) as load:
        time.sleep(_CALM)
        began = time.monotonic()
        said = stage.director.ask("drain", "api", "server1", "--deadline", "60s")
        took = time.monotonic() - began
        after = stage.requests(20)
        tally = load.stop()
    stage.director.call("resume", "api", "server1")
    failed = tally.failed.total() + after.failed.total()
    reasons = ", ".join(sorted({*tally.failed, *after.failed})) or "none"
    figures = (
        f"{failed} of {tally.answered + tally.failed.total() + 20} requests failed ({reasons}); "
        f"drained after {took:.1f} s; then {after.split.get('server1', 0)} of 20 requests reached it"
    )
    held = bool(said["drained"]) and not failed and "server1" not in after.split
    return Outcome("a real server is drained under load: 0 failed", figures, held)


def flows_on(stage: Stage) -> Outcome:
    stage.say("the daemon has ended")
    tally = stage.requests(20)
    figures = f"{tally.failed.total()} of 20 requests failed"
    return Outcome("traffic flows on when the daemon ends", figures, not tally.failed)


WATCHED: Sequence[Act] = (taken_over, killed, slowed, drained)


def _all_up(daemon: Daemon) -> bool:
    return set(daemon.statuses().values()) == {"up"}


def _share(stage: Stage, server: str) -> float:
    tally = stage.requests(90)
    return tally.split.get(server, 0) / max(1, tally.answered)


def _weight_share(daemon: Daemon, server: str) -> float:
    weights = {name: float(row["effective_weight"]) for name, row in daemon.servers().items()}
    return weights[server] / sum(weights.values())
