"""VRRP by what `kernlb render keepalived.conf` says: the number that kernlb writes moves the VIP.

director1 10.77.0.1 -- 10.77.0.2 director2, a keepalived in each
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernlb.config import load
from kernlb.daemon.track import Track
from kernlb.pool import Pool
from kernlb.render import Options, Template, render
from tests.system.network import inside, ip, namespaces, run, until

pytestmark = [pytest.mark.keepalived, pytest.mark.netns, pytest.mark.timeout(150)]

VIP = "203.0.113.10"
CONFIGURATION = f'[service.web]\nbind = "{VIP}:80"\nservers = {{ rs1 = "10.0.0.1:80" }}\n'


@dataclass(frozen=True, slots=True)
class Director:
    """A namespace with kernlb's number and keepalived's files in a directory of its own."""

    namespace: str
    directory: Path

    def has_vip(self) -> bool:
        return VIP in run("ip", "-n", self.namespace, "-brief", "address", "show", "dev", "eth0")

    def sees(self, *quorate: bool) -> None:
        """The director's kernlb finds these services with quorum, and these without."""
        Track(self.directory / "track").tell({str(place): Pool((), quorum=has) for place, has in enumerate(quorate)})

    @contextmanager
    def keepalived(self, priority: int = 100) -> Iterator[None]:
        options = Options(interface="eth0", priority=priority, track_file=str(self.directory / "track"))
        file = self.directory / "keepalived.conf"
        file.write_text(render(Template.KEEPALIVED, load(CONFIGURATION, "kernlb.toml"), options))
        places = [f"--{name}={self.directory / name}" for name in ("pid", "vrrp_pid")]
        command = ["keepalived", "--vrrp", "--dont-fork", "--log-console", f"--use-file={file}", *places]
        with inside(self.namespace), (self.directory / "log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)
            print((self.directory / "log").read_text())


@pytest.fixture
def directors(tmp_path: Path) -> Iterator[tuple[Director, Director]]:
    with namespaces("director1", "director2") as names:
        run("ip", "link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        made = []
        for place, name in enumerate(names, start=1):
            ip(name, f"addr add 10.77.0.{place}/24 dev eth0\nlink set eth0 up\n")
            (tmp_path / name).mkdir()
            made.append(Director(name, tmp_path / name))
        yield made[0], made[1]


def holders(directors: tuple[Director, Director]) -> str:
    """Who has the VIP, as numbers."""
    return "".join(str(number) for number, each in enumerate(directors, start=1) if each.has_vip())


def moves(directors: tuple[Director, Director], to: str) -> bool:
    return until(lambda: holders(directors), to.__eq__) == to


def stays(directors: tuple[Director, Director], at: str) -> bool:
    """Longer than a director waits for the other's advertisement: three seconds and a part of one."""
    end = time.monotonic() + 6
    while (found := holders(directors)) == at and time.monotonic() < end:
        time.sleep(0.02)
    return found == at


def test_a_service_without_quorum_moves_the_vip_and_with_it_the_preferred_director_takes_it_back(
    directors: tuple[Director, Director],
) -> None:
    first, second = directors
    with second.keepalived(100), first.keepalived(110):
        assert moves(directors, to="1")
        first.sees(True, False)
        assert moves(directors, to="2")
        first.sees(True, True)
        assert moves(directors, to="1")


def test_between_equals_it_moves_for_quorum_and_a_director_that_returns_takes_nothing(
    directors: tuple[Director, Director],
) -> None:
    first, second = directors
    with second.keepalived():
        with first.keepalived():
            assert until(lambda: holders(directors))
            first.sees(False)
            assert moves(directors, to="2")
            second.sees(False)
            first.sees(True)
            assert moves(directors, to="1")
            second.sees(True)
            assert stays(directors, at="1")
        assert moves(directors, to="2")
        with first.keepalived():
            assert stays(directors, at="2")
