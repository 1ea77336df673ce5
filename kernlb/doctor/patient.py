"""The machine as it answers questions, in the network namespace of the calling thread. Changes nothing of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kernlb.engines.nftables import nft
from kernlb.engines.rtnetlink import Link, Route, Rtnetlink
from kernlb.engines.sysctls import Sysctls
from kernlb.errors import KernlbError
from kernlb.model import IPAddress, Sysctl, SysctlKey

_SYSCTLS = Path("/proc/sys")


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of nftables, iptables-nft's among them."""

    family: str
    table: str
    name: str
    hook: str
    policy: str


class Patient:
    def __init__(self) -> None:
        self._netlink = Rtnetlink()
        self._routes: dict[IPAddress, Route | None] = {}

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> "Patient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def links(self) -> dict[int, Link]:
        return self._netlink.links()

    @cached_property
    def addresses(self) -> Sequence[tuple[int, IPAddress]]:
        return self._netlink.addresses()

    @cached_property
    def neighbours(self) -> dict[tuple[int, IPAddress], bytes]:
        return self._netlink.neighbours()

    def route(self, address: IPAddress) -> Route | None:
        if address not in self._routes:
            self._routes[address] = self._netlink.route(address)
        return self._routes[address]

    def link_to(self, address: IPAddress) -> Link | None:
        """The interface towards an address of another machine."""
        route = self.route(address)
        return None if route is None or route.local else self.links.get(route.interface)

    def holders(self, address: IPAddress) -> list[Link]:
        """The interfaces that an address of this machine is on."""
        return [self.links[index] for index, own in self.addresses if own == address and index in self.links]

    def sysctl(self, name: str) -> str | None:
        value = Sysctls([name]).read().get(SysctlKey(name))
        return value.value if isinstance(value, Sysctl) else None

    def strict_reverse_path(self, interface: str) -> bool:
        """The kernel takes the larger of both values; 1 is strict, 2 is loose (ip-sysctl)."""
        names = ("net.ipv4.conf.all.rp_filter", f"net.ipv4.conf.{interface.replace('.', '/')}.rp_filter")
        return max(int(self.sysctl(name) or 0) for name in names) == 1

    @cached_property
    def may_write_sysctls(self) -> bool:
        try:
            # Opened for writing, nothing written.
            (_SYSCTLS / "net/ipv4/ip_forward").open("r+").close()
        except OSError:
            return False
        return True

    @cached_property
    def chains(self) -> list[Chain]:
        return list(_chains())

    @cached_property
    def connections(self) -> tuple[int, int] | None:
        """Connections that conntrack follows, and how many it can; None where it is not loaded."""
        count, most = (self.sysctl(f"net.netfilter.nf_conntrack_{name}") for name in ("count", "max"))
        return None if count is None or most is None else (int(count), int(most))


def _chains() -> Iterator[Chain]:
    try:
        listed = nft("-j", "list", "chains")
    except KernlbError:
        return
    for entry in json.loads(listed.stdout)["nftables"] if listed.returncode == 0 else ():
        chain = entry.get("chain", {})
        if "hook" in chain:
            policy = chain.get("policy", "accept")
            yield Chain(chain["family"], chain["table"], chain["name"], chain["hook"], policy)
