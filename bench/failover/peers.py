"""The directors side by side: each with the same real servers, asked every 2 s, out after three failures."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from kernlb.demo.director import await_that
from kernlb.demo.namespaces import CLIENT, DIRECTOR_BACK, DIRECTOR_FRONT, SERVERS
from kernlb.demo.stage import PORT, Stage

INTERVAL = 2
FALL = 3
PATIENCE = 60.0
PERMISSION = 0o600


@dataclass(frozen=True, slots=True)
class Peer:
    """`running` balances at the director's address while it is entered."""

    name: str
    running: Callable[[Stage], AbstractContextManager[None]]


def inside(stage: Stage, part: str, *command: str) -> Sequence[str]:
    return ["ip", "netns", "exec", stage.lab.namespace(part), *command]


def call(stage: Stage, part: str, *command: str) -> None:
    subprocess.run(inside(stage, part, *command), check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)


def route_back(stage: Stage) -> None:
    """Servers answer clients through the director, as forwarding by NAT asks for."""
    for name in SERVERS:
        stage.lab.ip(name, [f"route replace {CLIENT} via {DIRECTOR_BACK} dev eth0"])
    call(stage, "director", "sysctl", "-qw", "net.ipv4.ip_forward=1")


def kernlb(*lines: str) -> Callable[[Stage], AbstractContextManager[None]]:
    """With these lines in its service."""

    @contextmanager
    def running(stage: Stage) -> Iterator[None]:
        servers = "".join(f'{name} = "{address}:{PORT}"\n' for name, address in SERVERS.items())
        file = stage.directory / "failover.toml"
        file.write_text(
            f'[service.web]\nbind = "{DIRECTOR_FRONT}:{PORT}"\n'
            + "".join(f"{line}\n" for line in lines)
            + f'check = {{ type = "tcp", interval = "{INTERVAL}s", fall = {FALL} }}\n[service.web.servers]\n{servers}'
        )
        with stage.director.daemon(file) as daemon:
            await_that(lambda: set(daemon.statuses().values()) == {"up"}, "kernlb's servers did not come up")
            yield
        stage.director.call("clear")

    return running


@contextmanager
def keepalived(stage: Stage) -> Iterator[None]:
    servers = "".join(
        f"  real_server {address} {PORT} {{\n    TCP_CHECK {{\n      connect_timeout {INTERVAL}\n"
        f"      retry {FALL - 1}\n      delay_before_retry {INTERVAL}\n    }}\n  }}\n"
        for address in SERVERS.values()
    )
    file = stage.directory / "keepalived.conf"
    file.write_text(
        f"virtual_server {DIRECTOR_FRONT} {PORT} {{\n  delay_loop {INTERVAL}\n  lb_algo rr\n  lb_kind NAT\n"
        f"  protocol TCP\n{servers}}}\n"
    )
    file.chmod(PERMISSION)
    places = ["-p", str(stage.directory / "k.pid"), "-c", str(stage.directory / "kc.pid")]
    with _process(stage, "keepalived", "-n", "-C", "-f", str(file), *places):
        yield


def haproxy(*options: str) -> Callable[[Stage], AbstractContextManager[None]]:
    """`mode http`, as most files have it; its own defaults but for the timeouts, which it wants to be told."""

    @contextmanager
    def running(stage: Stage) -> Iterator[None]:
        lines = "".join(f"  {option}\n" for option in options)
        servers = "".join(f"  server {name} {address}:{PORT} check\n" for name, address in SERVERS.items())
        file = stage.directory / "haproxy-failover.cfg"
        file.write_text(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 50s\n  timeout server 50s\n"
            f"{lines}listen web\n  bind {DIRECTOR_FRONT}:{PORT}\n  balance roundrobin\n{servers}"
        )
        with _process(stage, "haproxy", "-db", "-f", str(file)):
            yield

    return running


PROXIES = (
    Peer("HAProxy", haproxy()),
    Peer("HAProxy, option redispatch", haproxy("option redispatch")),
)
PEERS = (
    Peer("kernlb", kernlb('engine = "ipvs"', 'forwarding = "nat"', 'scheduler = "rr"')),
    Peer("keepalived", keepalived),
    *PROXIES,
)
PEERS_XDP = (Peer("kernlb", kernlb('engine = "xdp"', 'forwarding = "fullnat"')), *PROXIES)
"""Without keepalived, which balances by IPVS alone."""


@contextmanager
def _process(stage: Stage, *command: str) -> Iterator[None]:
    # `ip netns exec` becomes the program, so that this is its process.
    quiet = subprocess.DEVNULL
    with subprocess.Popen(inside(stage, "director", *command), stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
