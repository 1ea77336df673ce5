"""The maps that services refer to, brought to what they have to hold: only what differs is written."""

from collections.abc import Sequence
from contextlib import suppress

from kernlb.engines import abi, limits
from kernlb.engines.carried import Member
from kernlb.engines.dataplane import Dataplane
from kernlb.engines.maps import Map
from kernlb.engines.placement import GONE, Contents, flags_of, keep_known


def fill(plane: Dataplane, contents: Contents, *, timeouts: Sequence[int]) -> None:
    """Everything that services refer to; `timeouts` are the program's."""
    for number, source in contents.sources.items():
        _put(plane.maps["sources"], abi.index(number), source.pack())
    for interface, hop in contents.links.items():
        _put(plane.maps["links"], abi.index(interface), hop.pack())
    limits.keep(plane.maps["limits"], contents.limits, table=plane.maps["flows"], timeouts=timeouts)
    servers, traffic = plane.maps["servers"], plane.maps["traffic"]
    packed = servers.first(max(contents.servers) + 1)
    size = servers.value_size
    before = {number: packed[number * size : (number + 1) * size] for number in contents.servers}
    different = {n: server for n, server in contents.servers.items() if before[n] != server.pack()}
    known = {number: abi.Server.unpack(before[number]) for number in different if any(before[number])}
    keep_known(known, different)
    for number, server in different.items():
        had = known.get(number)
        if had is None or had.address != server.address:
            traffic[abi.index(number)] = bytes(traffic.value_size * traffic.values_per_key)
        servers[abi.index(number)] = server.pack()


def offer(plane: Dataplane, contents: Contents) -> None:
    """The services themselves, and those that go."""
    services = plane.maps["services"]
    wanted = {key.pack(): service.pack() for key, service in contents.services.items()}
    for key, value in wanted.items():
        _put(services, key, value)
    for key in [key for key in services.keys() if key not in wanted]:  # noqa: SIM118
        with suppress(KeyError):
            del services[key]


def flag(plane: Dataplane, member: Member) -> None:
    """What the weight says to the program beside the slots."""
    servers = plane.maps["servers"]
    server = abi.Server.unpack(servers[abi.index(member.id)])
    _put(servers, abi.index(member.id), flags_of(server, member.value).pack())


def bury(plane: Dataplane, member: Member) -> None:
    plane.set_server(member.id, GONE)


def _put(target: Map, key: bytes, value: bytes) -> None:
    if target.get(key) != value:
        target[key] = value
