"""Least response time with real servers: their delays are injected, the weights and requests are what a kernel does."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pytest

from kernlb.demo.director import Daemon
from kernlb.demo.http import Delay, serve
from kernlb.demo.namespaces import DIRECTOR_FRONT, SERVERS
from tests.system.director import Director, director, until

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.timeout(600)]

DELAY = 0.5  # seconds; the swings of a busy machine, and of an emulated one, are small beside it
NAMES = tuple(f"s{number}" for number in range(5))
SLOW, *OTHERS = NAMES
# A hash draws lots: of its share of so many a slow server gets a tenth more or less.
REQUESTS = {"ipvs": 400, "xdp": 1600}
PARALLEL = {"ipvs": 40, "xdp": 80}
ENGINES = [
    pytest.param("ipvs", marks=pytest.mark.ipvs),
    pytest.param("xdp", marks=[pytest.mark.bpf, pytest.mark.clang]),
]


@dataclass(frozen=True, slots=True)
class Pool:
    director: Director
    daemon: Daemon
    count: int
    parallel: int
    delays: dict[str, Delay]

    def weights(self) -> dict[str, float]:
        """In configured units."""
        return {name: float(row["effective_weight"]) for name, row in self.daemon.servers().items()}

    def ratio(self) -> float:
        """The slow server's weight beside a normal one's."""
        weights = self.weights()
        return weights[SLOW] / mean(weights[name] for name in OTHERS)

    def requests(self) -> dict[str, int]:
        tally = self.director.requests(self.count, DIRECTOR_FRONT, parallel=self.parallel)
        assert not tally.failed
        return {name: tally.split.get(name, 0) for name in NAMES}


@pytest.fixture(params=ENGINES)
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    with director(tmp_path) as found:
        delays: dict[str, Delay] = {name: multiprocessing.Value("d", DELAY) for name in NAMES}
        homes = dict(zip(NAMES, [*SERVERS, *SERVERS], strict=False))
        for port, (name, home) in enumerate(homes.items(), 8081):
            found.lab.start(home, serve, name, SERVERS[home], port, delays[name])
        listed = "".join(
            f'{name} = "{SERVERS[home]}:{port}"\n' for port, (name, home) in enumerate(homes.items(), 8081)
        )
        text = f"""
[engine]
default = "{request.param}"
[service.web]
bind = ["{DIRECTOR_FRONT}:80"]
forwarding = "fullnat"
scheduler = "least-response-time"
check = {{ type = "http", path = "/", interval = "250ms", timeout = "5s", rise = 1, fall = 3 }}
[service.web.servers]
{listed}"""
        with found.daemon(Path(found.file(text))) as daemon:
            until(lambda: {row["status"] for row in daemon.servers().values()} == {"up"}, patience=150)
            yield Pool(found, daemon, REQUESTS[request.param], PARALLEL[request.param], delays)
        found.call("clear")


def test_equals_stay_equal_a_slower_server_gets_a_third_and_returns(pool: Pool) -> None:
    before = pool.requests()
    assert set(pool.weights().values()) == {1.0}
    assert min(before.values()) > pool.count / 5 / 2

    pool.delays[SLOW].value = 3 * DELAY
    until(lambda: 0.25 <= pool.ratio() <= 0.42, patience=90)
    while_slow = pool.requests()
    assert 0.25 <= pool.ratio() <= 0.42, "left where it had arrived"
    assert all(pool.weights()[name] == 1.0 for name in OTHERS)
    share = while_slow[SLOW] / mean(while_slow[name] for name in OTHERS)
    assert 0.2 <= share <= 0.55
    print(f"requests: {before}, then {while_slow}; share {share:.2f}, weight {pool.ratio():.2f}")

    pool.delays[SLOW].value = DELAY
    until(lambda: set(pool.weights().values()) == {1.0}, patience=120)
