"""Whether packets find their way: to the VIPs, on to the real servers, and back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from kernlb.config.values import AddressBind, Config, Server, Service
from kernlb.counters import Counters
from kernlb.doctor.arp import answering
from kernlb.doctor.finding import Finding, Verdict
from kernlb.doctor.patient import Patient
from kernlb.engines.rtnetlink import Link, Route
from kernlb.model import EngineName, Family, Forwarding, IPAddress, Key, ServerKey, TunnelKind
from kernlb.pool import ServerName
from kernlb.ratings import all_servers
from kernlb.vip_checks import ways

_OVERHEAD = {TunnelKind.IPIP: 0, TunnelKind.GRE: 4, TunnelKind.GUE: 12}
_HEADER = {4: 20, 6: 40}
_MANY = 20
"""Packets towards a server that never answered, from which on it is no accident."""

ONE_WAY = (Forwarding.DIRECT, Forwarding.TUNNEL)


@dataclass(frozen=True, slots=True)
class Placed:
    """A real server and how to get to it; `link` is None where there is no way."""

    name: ServerName
    server: Server
    engine: EngineName
    route: Route | None
    link: Link | None

    @property
    def about(self) -> str:
        return f"service.{self.name[0]}.servers.{self.name[1]}"


def placed(config: Config, engines: Mapping[str, EngineName], patient: Patient) -> list[Placed]:
    return [
        Placed(
            (service.name, server.name),
            server,
            engines[service.name],
            patient.route(server.address),
            patient.link_to(server.address),
        )
        for service in config.services
        for server in all_servers(service)
    ]


def vips(config: Config, patient: Patient) -> Iterator[Finding]:
    """Whether this machine gets the packets of its VIPs."""
    for service in config.services:
        for address in _addresses(service):
            about = f"service.{service.name}, VIP {address}"
            route = patient.route(address)
            if route is not None and route.local:
                yield Finding("vip", about, Verdict.OK, "is an address of this machine")
            elif config.addresses.manage:
                yield Finding("vip", about, Verdict.OK, f"apply puts it on {config.addresses.interface}")
            else:
                cause = (
                    "is no address of this machine: its packets are not given to IPVS, and nobody answers ARP for it"
                )
                fix = f"[addresses] manage = true, or ip addr add {address}/{address.max_prefixlen} dev lo"
                yield Finding("vip", about, Verdict.PROBLEM, cause, fix)


def routes(servers: Sequence[Placed]) -> Iterator[Finding]:
    """The way to each real server, and whether its forwarding can go that way."""
    for each in servers:
        server, route = each.server, each.route
        if route is None:
            cause, fix = f"no route to {server.address}", "give this machine a route to it"
            yield Finding("route", each.about, Verdict.PROBLEM, cause, fix)
        elif route.local:
            yield Finding("route", each.about, Verdict.OK, "is this machine itself")
        elif server.forwarding is Forwarding.DIRECT and route.gateway is not None:
            cause = f"is behind the gateway {route.gateway}, which routes by the VIP and not to this server"
            yield Finding("route", each.about, Verdict.PROBLEM, cause, 'forwarding = "tunnel", or the same network')
        elif server.forwarding is Forwarding.NAT and route.gateway is not None:
            cause = f"is behind the gateway {route.gateway}; its answers come back only if that sends them here"
            yield Finding("return path", each.about, Verdict.WARNING, cause, f'{_GATEWAY}, or forwarding = "fullnat"')
        else:
            name = each.link.name if each.link else "?"
            yield Finding("route", each.about, Verdict.OK, f"is reached through {name}")


def sources(config: Config, patient: Patient) -> Iterator[Finding]:
    """Where full NAT's connections come from: an address whose packets get here, and to no other gateway."""
    fronts = {address for service in config.services for address in _addresses(service)}
    for address in config.addresses.source:
        about = f"addresses.source, {address}"
        route = patient.route(address)
        if address in fronts:
            cause = "is a VIP too: with it the ports go to the next gateway, which knows nothing of connections on them"
            fix = "name an address that stays with this gateway"
            yield Finding("source", about, Verdict.WARNING, cause, fix)
        elif route is not None and route.local:
            yield Finding("source", about, Verdict.OK, "is an address of this machine")
        else:
            cause = "is no address of this machine: answers come back only if the servers' routes to it lead here"
            fix = f"ip addr add {address}/{address.max_prefixlen} dev lo, or name an address that this machine has"
            yield Finding("source", about, Verdict.WARNING, cause, fix)


_GATEWAY = "make this director the gateway of the real server's answers"


def answers(
    servers: Sequence[Placed], names: Mapping[Key, ServerName], counted: Mapping[Key, Counters]
) -> Iterator[Finding]:
    """The return path, as the traffic so far tells: what goes out to a translated server has to come back."""
    known = {each.name: each for each in servers}
    sums: dict[ServerName, tuple[int, int]] = {}
    for key, counters in counted.items():
        name = names.get(key)
        if isinstance(key, ServerKey) and name in known and counters.packets_out is not None:
            out, back = sums.get(name, (0, 0))
            sums[name] = out + (counters.packets_in or 0), back + counters.packets_out
    for name, (out, back) in sums.items():
        each = known[name]
        if each.server.forwarding in ONE_WAY or not out:
            continue
        if back:
            yield Finding("return path", each.about, Verdict.OK, f"{out} packets went there, {back} came back")
        else:
            verdict = Verdict.PROBLEM if out >= _MANY else Verdict.WARNING
            cause = f"{out} packets went there, and none came back through this director"
            fix = _GATEWAY if each.server.forwarding is Forwarding.NAT else "see that the real server runs and answers"
            yield Finding("return path", each.about, verdict, cause, fix)


def one_arm(config: Config, servers: Sequence[Placed], patient: Patient) -> Iterator[Finding]:
    """nat, where clients may sit in the servers' own network: such a client is answered past the director."""
    fronts = {
        service.name: {link.index for a in _addresses(service) for link in patient.holders(a) if not link.loopback}
        for service in config.services
    }
    for each in servers:
        if each.server.forwarding is Forwarding.NAT and each.link and each.link.index in fronts[each.name[0]]:
            cause = f"VIP and server share {each.link.name}: clients of that network are answered past this director"
            yield Finding("return path", each.about, Verdict.WARNING, cause, 'forwarding = "fullnat" or "direct"')


def forward_policy(servers: Sequence[Placed], patient: Patient) -> Iterator[Finding]:
    """Answers of nat servers are forwarded, so a firewall that forwards nothing loses them."""
    nat = [each for each in servers if each.server.forwarding in (Forwarding.NAT, Forwarding.FULLNAT)]
    if not any(each.engine is EngineName.IPVS for each in nat):
        return
    for chain in patient.chains:
        if chain.hook == "forward" and chain.policy == "drop":
            about = f"chain {chain.name} of table {chain.family} {chain.table}"
            cause = "its policy is drop: answers of nat servers pass it, unless a rule there lets them"
            fix = "accept what comes from the real servers, or ct state established"
            yield Finding("firewall", about, Verdict.WARNING, cause, fix)


def silence(config: Config, servers: Sequence[Placed], patient: Patient) -> Iterator[Finding]:
    """Real servers that hold the VIP must not answer ARP for it. Asked on the network of the servers."""
    macs = {mac: address for (_, address), mac in patient.neighbours.items()}
    for service in config.services:
        links = {
            each.link.index: each.link
            for each in servers
            if each.name[0] == service.name and each.server.forwarding in ONE_WAY and each.link and each.link.ethernet
        }
        for vip in (each for each in _addresses(service) if isinstance(each, IPv4Address)):
            for link in links.values():
                about = f"service.{service.name}, VIP {vip} on {link.name}"
                others = answering(vip, link)
                for mac in sorted(others):
                    who = f"{macs[mac]} ({mac.hex(':')})" if mac in macs else mac.hex(":")
                    cause = f"{who} answers ARP for it: clients may reach that machine past this director"
                    fix = "arp_ignore = 1 and arp_announce = 2 there (kernlb render realserver)"
                    yield Finding("arp", about, Verdict.PROBLEM, cause, fix)
                if not others:
                    yield Finding("arp", about, Verdict.OK, "nobody else answers ARP for it")


def tunnels(config: Config, servers: Sequence[Placed], patient: Patient) -> Iterator[Finding]:
    """Whether what clients send fits into the tunnel."""
    for each in servers:
        if each.server.forwarding is not Forwarding.TUNNEL or each.link is None or each.route is None:
            continue
        service = next(service for service in config.services if service.name == each.name[0])
        kind = each.server.tunnel.kind if each.server.tunnel else TunnelKind.IPIP
        room = (each.route.mtu or each.link.mtu) - _HEADER[each.server.address.version] - _OVERHEAD[kind]
        fronts = [link.mtu for vip in _addresses(service) for link in patient.holders(vip) if not link.loopback]
        largest = max(fronts, default=1500)
        if room >= largest:
            yield Finding("mtu", each.about, Verdict.OK, f"packets of {largest} bytes fit into the tunnel")
            continue
        cause = f"the tunnel takes packets of {room} bytes, clients send up to {largest}"
        fix = (
            f"ip link set {each.link.name} mtu {largest + (each.link.mtu - room)}, or a smaller MSS on the real servers"
        )
        yield Finding("mtu", each.about, Verdict.WARNING, cause, fix)


def reverse_path(config: Config, patient: Patient) -> Iterator[Finding]:
    """Checks through the VIP are answered from the VIP, an address of this machine, which strict filtering refuses."""
    for (service, server), way in ways(config).items():
        link = patient.link_to(way.server.address)
        if link is None or way.server.address.version == 6:
            continue
        about = f"service.{service}.servers.{server}.check.via_vip"
        if patient.strict_reverse_path(link.name):
            cause = f"rp_filter is 1 (strict) on {link.name}: the kernel drops the answers of this check as forged"
            fix = f"sysctl -w net.ipv4.conf.all.rp_filter=2 (or 0 here and on {link.name})"
            yield Finding("rp_filter", about, Verdict.PROBLEM, cause, fix)
        else:
            yield Finding("rp_filter", about, Verdict.OK, f"is not strict on {link.name}")


def _addresses(service: Service) -> list[IPAddress]:
    found = (bind.address for bind in service.binds if isinstance(bind, AddressBind))
    return list(dict.fromkeys(address for address in found if not isinstance(address, Family)))
