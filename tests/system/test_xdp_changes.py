"""No connection in use moves: ten changes of every kind within one transition, through the daemon, under real traffic.

Direct routing: the gateway sees one direction, and all it knows of a connection is what a transition remembers.
"""

import random
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kernlb.control_client import ControlClient
from kernlb.errors import KernlbError
from kernlb.places import Places
from tests.system.network import until
from tests.system.segment import PORT, SERVERS, VIP, Download, Segment, segment, who

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(300)]
CONNECTIONS, CHANGES, DOWNLOADS = 1000, 10, 6
BEFORE = CONNECTIONS // 2
HELD = 600


@pytest.fixture
def network(balancer: Path) -> Iterator[Segment]:
    with segment() as built:
        yield built


class Gateway:
    """The daemon of a user who edits the file and gives orders."""

    def __init__(self, network: Segment, directory: Path) -> None:
        self._network = network
        self._directory = directory
        self.weights = dict.fromkeys(list(SERVERS)[:4], 2)
        self.drained: set[str] = set()
        self._write()
        command = network.kernlb("gw1", directory, "run", str(self._file), "--deadline", f"{HELD}s", "--no-passive")
        with (directory / "log").open("w") as log:
            self._daemon = subprocess.Popen(command, stderr=log)
        self._client = ControlClient(Places(namespace=network.gateways["gw1"], run=directory).control)
        assert until(self._serves), (directory / "log").read_text()

    @property
    def _file(self) -> Path:
        return self._directory / "kernlb.toml"

    @property
    def takes(self) -> set[str]:
        """The servers that new connections may go to."""
        return {name for name, weight in self.weights.items() if weight and name not in self.drained}

    def change(self, dice: random.Random) -> str:
        """One of the changes that there are; at least two servers go on taking connections."""
        possible = [self._weigh]
        if len(self.weights) < len(SERVERS):
            possible.append(self._add)
        if len(self.takes) > 2:
            possible += [self._remove, self._drain]
        if self.drained:
            possible.append(self._resume)
        return dice.choice(possible)(dice)

    def status(self) -> dict[str, Any]:
        (service,) = self._client.status()["services"]
        found: dict[str, Any] = service
        return found

    def end(self) -> None:
        self._daemon.terminate()
        assert self._daemon.wait(60) == 0
        self._network.call("gw1", self._directory, "clear")

    def _weigh(self, dice: random.Random) -> str:
        name = dice.choice(sorted(self.takes))
        self.weights[name] = dice.choice([weight for weight in (1, 2, 3, 5, 8) if weight != self.weights[name]])
        self._client.ask("POST", "/weight", service="web", server=name, weight=self.weights[name])
        return f"weight {name} {self.weights[name]}"

    def _add(self, dice: random.Random) -> str:
        name = dice.choice(sorted(set(SERVERS) - set(self.weights)))
        self.weights[name] = dice.choice([1, 2, 5])
        return self._reload(f"add {name}")

    def _remove(self, dice: random.Random) -> str:
        name = dice.choice(sorted(self.takes))
        del self.weights[name]
        return self._reload(f"remove {name}")

    def _drain(self, dice: random.Random) -> str:
        name = dice.choice(sorted(self.takes))
        self.drained.add(name)
        self._client.ask("POST", "/drain", service="web", server=name, deadline=HELD)
        return f"drain {name}"

    def _resume(self, dice: random.Random) -> str:
        name = dice.choice(sorted(self.drained))
        self.drained.remove(name)
        self._client.ask("POST", "/resume", service="web", server=name)
        return f"resume {name}"

    def _reload(self, what: str) -> str:
        self.drained &= set(self.weights)
        self._write()
        self._client.ask("POST", "/reload")
        return what

    def _write(self) -> None:
        listed = "".join(
            f'{name} = {{ address = "{SERVERS[name]}:{PORT}", weight = {weight} }}\n'
            for name, weight in self.weights.items()
        )
        self._file.write_text(
            f'[service.web]\nengine = "xdp"\nbind = ["{VIP}:{PORT}"]\nscheduler = "maglev"\nforwarding = "direct"\n'
            f"[service.web.servers]\n{listed}"
        )

    def _serves(self) -> bool:
        try:
            return bool(self._client.status()["daemon"]["reconciled"])
        except KernlbError:
            return False


def test_ten_changes_within_one_transition_break_none_of_a_thousand_connections(
    network: Segment, tmp_path: Path
) -> None:
    gateway, dice = Gateway(network, tmp_path), random.Random(20261125)
    try:
        connections = [network.connect() for _ in range(BEFORE)]
        first = [who(connection) for connection in connections]
        assert set(first) == gateway.takes
        downloads = [Download(network) for _ in range(DOWNLOADS)]
        done = []
        for _ in range(CHANGES):
            done.append(gateway.change(dice))
            fresh = [network.connect() for _ in range((CONNECTIONS - BEFORE) // CHANGES)]
            names = [who(connection) for connection in fresh]
            assert set(names) <= gateway.takes, done
            connections, first = connections + fresh, first + names
        assert len({word.split()[0] for word in done}) >= 4, done
        assert len(connections) == CONNECTIONS
        broken = [(had, now) for had, now in zip(first, map(who, connections), strict=True) if had != now]
        assert not broken, (done, broken)
        assert_in_one_transition(gateway)
        for download in downloads:
            download.end()
            assert download.wrong is None
            assert download.length > 0
        for connection in connections:
            with closing(connection):
                pass
    finally:
        gateway.end()


def assert_in_one_transition(gateway: Gateway) -> None:
    """It began with the first change, and weights of before are those of the start."""
    status = gateway.status()
    assert 0 < status["transition"]["slots"] < status["transition"]["of"]
    assert 800 < status["transition"]["seconds"] <= 901
    before = {server["name"]: server["previous_weight"] for server in status["servers"]}
    assert before == {name: 2 if name in list(SERVERS)[:4] else 0 for name in gateway.weights}
    now = {server["name"]: server["effective_weight"] for server in status["servers"]}
    assert now == {name: gateway.weights[name] if name in gateway.takes else 0 for name in gateway.weights}
