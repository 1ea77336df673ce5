"""What the demo claims, act by act: each act does something real and says whether it came out as claimed."""

import time
from collections.abc import Callable, Iterator

from kernlb.demo.http import Tally
from kernlb.demo.namespaces import DIRECTOR_BACK, SERVERS
from kernlb.demo.stage import PORT, Outcome, Stage
from kernlb.demo.watch import WATCHED, flows_on
from kernlb.model import EngineName
from kernlb.resources import shipped

REQUESTS = 200
HASHED_LEAST = 35

Act = Callable[[Stage], Outcome]


def set_stage(stage: Stage) -> None:
    """The configuration files, and real servers that answer."""
    text = (shipped("templates") / "demo.haproxy.cfg").read_text()
    stage.original.write_text(text)
    leaving = f"    server server1 {SERVERS['server1']}:{PORT} check\n"
    coming = f"    server server3 {SERVERS['server3']}:{PORT} check\n"
    stage.changed.write_text(text.replace(leaving, "") + coming)
    stage.watched.write_text((shipped("templates") / "demo.kernlb.toml").read_text())
    stage.start_servers(*SERVERS)


def applied(stage: Stage) -> Outcome:
    stage.say("kernlb apply haproxy.cfg")
    count = len(stage.director.ask("apply", str(stage.original))["operations"])
    code = stage.director.call("plan", str(stage.original), allowed=(0, 2)).code
    figures = f"{count} operations through engine {_engine(stage)}, then nothing to do"
    return Outcome("the article's haproxy.cfg is in the kernel", figures, code == 0)


def balanced(stage: Stage) -> Outcome:
    stage.say(f"{REQUESTS} requests, each on a new connection")
    tally = stage.requests(REQUESTS)
    if _engine(stage) == EngineName.XDP:
        # A hash draws lots, as if each connection tossed a coin: 35 % is four standard deviations from half.
        least = REQUESTS * HASHED_LEAST // 100
        fair = set(tally.split) == {"server1", "server2"} and min(tally.split.values()) >= least
        claim = f"{REQUESTS} requests are split by hash: no server has less than {HASHED_LEAST} %"
        return Outcome(claim, _figures(tally), fair and not tally.failed)
    even = tally.split == {"server1": REQUESTS // 2, "server2": REQUESTS // 2}
    return Outcome(f"{REQUESTS} requests are split evenly", _figures(tally), even and not tally.failed)


def translated(stage: Stage) -> Outcome:
    stage.say("asking the real servers whom they see")
    peers = stage.requests(4).peers
    seen = ", ".join(sorted(peers))
    claim = "real servers without a route to the client answer (full NAT)"
    return Outcome(claim, f"they see {seen}", peers == {DIRECTOR_BACK})


def changed_under_load(stage: Stage) -> Outcome:
    stage.say("keep-alive load, while server3 comes and server1 leaves")
    with stage.load(parallel=8, lifetime=3.0) as load:
        for line in stage.director.call("plan", str(stage.changed), allowed=(2,)).out.splitlines():
            stage.say(f"  {line}")
        started = time.monotonic()
        stage.director.call("apply", str(stage.changed))
        took = time.monotonic() - started
        tally = load.stop()
    after = stage.requests(20)
    moved = set(after.split) == {"server2", "server3"}
    figures = f"{_figures(tally)}; apply took {took:.1f} s; then {_figures(after)}"
    return Outcome(
        "a server comes and one leaves under load: 0 failed", figures, moved and not tally.failed and not after.failed
    )


def unchanged(stage: Stage) -> Outcome:
    stage.say("the same apply again")
    document = stage.director.ask("apply", str(stage.changed))
    return Outcome(
        "a second apply writes nothing", f"{len(document['operations'])} operations", not document["changed"]
    )


def cleared(stage: Stage) -> Outcome:
    stage.say("kernlb clear")
    stage.director.call("clear")
    left = stage.director.ask("show")["services"]
    tally = stage.requests(3)
    figures = f"{len(left)} services left, {tally.failed.total()} of 3 requests refused"
    return Outcome("clear leaves nothing behind", figures, not left and tally.failed.total() == 3)


APPLIED: tuple[Act, ...] = (applied, balanced, translated, changed_under_load, unchanged)


def play(stage: Stage) -> Iterator[Outcome]:
    """Act by act."""
    set_stage(stage)
    for act in APPLIED:
        yield act(stage)
    with stage.director.daemon(stage.watched) as daemon:
        for watched in WATCHED:
            yield watched(stage, daemon)
    yield flows_on(stage)
    yield cleared(stage)


def _engine(stage: Stage) -> str:
    """The engine that carries the demo's service."""
    engine: str = stage.director.ask("show")["services"][0]["engine"]
    return engine


def _figures(tally: Tally) -> str:
    split = ", ".join(f"{name} {count}" for name, count in tally.split.items())
    failed = ", ".join(f"{count} {why}" for why, count in tally.failed.items())
    return f"{split or 'no answers'}; {failed or '0 failed'}"
