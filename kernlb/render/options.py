"""What a template must be told beside the configuration, and how a template is filled in."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

from kernlb.config.values import AddressBind, Config, Service
from kernlb.errors import KernlbError
from kernlb.model import Family, IPAddress
from kernlb.resources import shipped


class NotRendered(KernlbError):
    """The configuration or the options do not say enough."""

    kind = "render"


class NothingToRender(NotRendered):
    """The configuration wants nothing of this machine."""

    kind = "nothing-to-render"


@dataclass(frozen=True, slots=True, kw_only=True)
class Floating:
    """An address that follows the VIPs: the gateway that real servers of nat services use."""

    address: IPv4Interface | IPv6Interface
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A BGP neighbour."""

    address: IPAddress
    autonomous_system: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`program` is what a unit starts, None for where it usually is; `arguments` follow the verb in its command.
    `vips` stand in where binds are wildcards or marks; `server` (a name or an address) narrows a real server's set-up
    to its own services. `peers` make VRRP unicast."""

    program: str | None = None
    arguments: tuple[str, ...] = ()
    namespace: str = "default"
    track_file: str = "/run/kernlb/default/track"
    server: str | None = None
    vips: tuple[IPAddress, ...] = ()
    undo: bool = False
    interface: str | None = None
    virtual_router: int = 51
    priority: int = 100
    floating: tuple[Floating, ...] = ()
    peers: tuple[IPAddress, ...] = ()
    local_as: int | None = None
    neighbours: tuple[Neighbour, ...] = ()
    router_id: IPv4Address | None = None


def vips_of(*services: Service) -> tuple[IPAddress, ...]:
    """The addresses that services bind by name, each once, IPv4 first."""
    found = {
        bind.address
        for service in services
        for bind in service.binds
        if isinstance(bind, AddressBind) and not isinstance(bind.address, Family)
    }
    return in_order(found)


def in_order(addresses: AbstractSet[IPAddress]) -> tuple[IPAddress, ...]:
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))


def managed(config: Config) -> frozenset[IPAddress]:
    """The VIPs that kernlb itself puts on an interface."""
    return frozenset(vips_of(*config.services)) if config.addresses.manage else frozenset()


def fill(name: str, **values: Any) -> str:
    """A shipped template with its values. Every name in it must be given."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.from_string(shipped("templates").joinpath(name).read_text()).render(values)
