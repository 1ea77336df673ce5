"""client 10.9.1.2, fd09:1::2 -- 10.9.1.1, fd09:1::1 gateway 10.9.2.1, fd09:2::1 -- 10.9.2.2, fd09:2::2 server"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.system.network import ip, namespaces, run


@dataclass(frozen=True, slots=True)
class Gateway:
    """Names of namespaces. The server has no route to the client."""

    client: str
    gateway: str
    server: str


@contextmanager
def gateway() -> Iterator[Gateway]:
    with namespaces("client", "gateway", "server") as (client, director, server):
        ip(
            director,
            f"link add near type veth peer name eth0 netns {client}\n"
            f"link add far type veth peer name eth0 netns {server}\n",
        )
        ip(
            director,
            "addr add 10.9.1.1/24 dev near\naddr add fd09:1::1/64 dev near nodad\nlink set near up\n"
            "addr add 10.9.2.1/24 dev far\naddr add fd09:2::1/64 dev far nodad\nlink set far up\n",
        )
        ip(
            client,
            "addr add 10.9.1.2/24 dev eth0\naddr add fd09:1::2/64 dev eth0 nodad\nlink set eth0 up\n"
            "route add default via 10.9.1.1\nroute add default via fd09:1::1\n",
        )
        ip(server, "addr add 10.9.2.2/24 dev eth0\naddr add fd09:2::2/64 dev eth0 nodad\nlink set eth0 up\n")
        settings = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        run("ip", "netns", "exec", director, "sysctl", "-qw", *settings)
        yield Gateway(client, director, server)
