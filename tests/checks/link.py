"""A director and a server in namespaces, and the one link between them.

director 10.9.0.1, fd09::1 --- wire --- 10.9.0.2, fd09::2 server
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.network import ip, namespaces

SERVERS = ("10.9.0.2", "fd09::2")


@contextmanager
def linked() -> Iterator[tuple[str, str]]:
    with namespaces("director", "server") as (director, server):
        ip(director, f"link add name wire type veth peer name wire netns {server}\n")
        for name, last in ((director, 1), (server, 2)):
            ip(name, f"addr add 10.9.0.{last}/24 dev wire\naddr add fd09::{last}/64 dev wire nodad\n")
            ip(name, "link set wire up\n")
        yield director, server
