"""What the demo claims, act by act: each act does something real and says whether it came out as claimed."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from kernlb.demo.director import Director
from kernlb.demo.http import Tally, fetch, keep_busy, serve
from kernlb.demo.namespaces import DIRECTOR_BACK, DIRECTOR_FRONT, SERVERS, Answer, Lab
from kernlb.errors import KernlbError
from kernlb.resources import shipped

PORT = 80
REQUESTS = 200
_READY = 20.0
_LONG = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`held` says whether the claim held; `figures` what was measured."""

    claim: str
    figures: str
    held: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the acts play. `say` tells what is being done now."""

    lab: Lab
    director: Director
    directory: Path
    say: Callable[[str], None]

    @property
    def original(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def changed(self) -> Path:
        return self.directory / "haproxy-changed.cfg"


Act = Callable[[Stage], Outcome]


def set_stage(stage: Stage) -> None:
    """The configuration files, and real servers that answer."""
    text = (shipped("templates") / "demo.haproxy.cfg").read_text()
    stage.original.write_text(text)
    leaving = f"    server server1 {SERVERS['server1']}:{PORT} check\n"
    coming = f"    server server3 {SERVERS['server3']}:{PORT} check\n"
    stage.changed.write_text(text.replace(leaving, "") + coming)
    for name, address in SERVERS.items():
        stage.lab.start(name, serve, name, address, PORT)
    for name, address in SERVERS.items():
        _await_answer(stage, name, address)


def applied(stage: Stage) -> Outcome:
    stage.say("kernlb apply haproxy.cfg")
    count = len(stage.director.ask("apply", str(stage.original))["operations"])
    code = stage.director.call("plan", str(stage.original), allowed=(0, 2)).code
    return Outcome("the article's haproxy.cfg is in the kernel", f"{count} operations, then nothing to do", code == 0)


def balanced(stage: Stage) -> Outcome:
    stage.say(f"{REQUESTS} requests, each on a new connection")
    tally = _requests(stage, REQUESTS)
    even = tally.split == {"server1": REQUESTS // 2, "server2": REQUESTS // 2}
    return Outcome(f"{REQUESTS} requests are split evenly", _figures(tally), even and not tally.failed)


def translated(stage: Stage) -> Outcome:
    stage.say("asking the real servers whom they see")
    peers = _requests(stage, 4).peers
    seen = ", ".join(sorted(peers))
    claim = "real servers without a route to the client answer (full NAT)"
    return Outcome(claim, f"they see {seen}", peers == {DIRECTOR_BACK})


def changed_under_load(stage: Stage) -> Outcome:
    stage.say("keep-alive load, while server3 comes and server1 leaves")
    with _load(stage, parallel=8, lifetime=3.0) as (answer, stop):
        for line in stage.director.call("plan", str(stage.changed), allowed=(2,)).out.splitlines():
            stage.say(f"  {line}")
        started = time.monotonic()
        stage.director.call("apply", str(stage.changed))
        took = time.monotonic() - started
        stop()
        tally: Tally = answer.value(timeout=_LONG)
    after = _requests(stage, 20)
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
    tally = _requests(stage, 3)
    figures = f"{len(left)} services left, {tally.failed.total()} of 3 requests refused"
    return Outcome("clear leaves nothing behind", figures, not left and tally.failed.total() == 3)


ACTS: tuple[Act, ...] = (applied, balanced, translated, changed_under_load, unchanged, cleared)


def _requests(stage: Stage, count: int, *, address: str = DIRECTOR_FRONT, at: str = "client") -> Tally:
    tally: Tally = stage.lab.ask(at, fetch, address, PORT, count, 4).value(timeout=_LONG)
    return tally


@contextmanager
def _load(stage: Stage, *, parallel: int, lifetime: float) -> Iterator[tuple[Answer, Callable[[], None]]]:
    here: Connection
    here, there = multiprocessing.Pipe()
    answer = stage.lab.ask("client", keep_busy, there, DIRECTOR_FRONT, PORT, parallel, lifetime)
    try:
        yield answer, lambda: here.send(None)
    finally:
        here.close()


def _await_answer(stage: Stage, name: str, address: str) -> None:
    deadline = time.monotonic() + _READY
    while _requests(stage, 1, address=address, at="director").failed:
        if time.monotonic() > deadline:
            raise KernlbError(f"{name} of the demo did not start within {_READY:g} s")
        time.sleep(0.05)


def _figures(tally: Tally) -> str:
    split = ", ".join(f"{name} {count}" for name, count in tally.split.items())
    failed = ", ".join(f"{count} {why}" for why, count in tally.failed.items())
    return f"{split or 'no answers'}; {failed or '0 failed'}"
