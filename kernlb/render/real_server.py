"""What a real server of direct and tunnel services needs: VIPs on lo, silence in ARP, devices that unpack tunnels.

The fallback device that each tunnel module brings takes packets from any director, so none has to be named.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from kernlb.config.values import Config, Server, Service
from kernlb.errors import Unsupported
from kernlb.model import Family, Forwarding, IPAddress, Tunnel, TunnelKind, family_of
from kernlb.ratings import all_servers
from kernlb.render.options import NothingToRender, NotRendered, Options, fill, in_order, vips_of
from kernlb.render.units import command

V4, V6 = Family.IPV4, Family.IPV6
SCRIPT = "/usr/local/sbin/kernlb-realserver"
_ARP = {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}
# The kernel takes the larger one of `all` and the device's own.
_NO_RETURN_PATH = "net.ipv4.conf.all.rp_filter"


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """`local` is the server's own address where the device must be made; None for a module's fallback device."""

    name: str
    module: str
    local: str | None = None


# By tunnel, family outside, family inside.
_FALLBACK = {
    (TunnelKind.IPIP, V4, V4): Device("tunl0", "ipip"),
    (TunnelKind.IPIP, V4, V6): Device("sit0", "sit"),
    (TunnelKind.IPIP, V6, V6): Device("ip6tnl0", "ip6_tunnel"),
    (TunnelKind.GRE, V4, V4): Device("gre0", "ip_gre"),
    (TunnelKind.GRE, V4, V6): Device("gre0", "ip_gre"),
    (TunnelKind.GRE, V6, V4): Device("ip6gre0", "ip6_gre"),
    (TunnelKind.GRE, V6, V6): Device("ip6gre0", "ip6_gre"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """`gue` lists ip's family option and UDP port of each listener."""

    vips: tuple[IPAddress, ...]
    devices: tuple[Device, ...]
    gue: tuple[tuple[str, int], ...]

    @property
    def modules(self) -> tuple[str, ...]:
        fou = {"fou" if option == "-4" else "fou6" for option, _ in self.gue}
        return tuple(sorted({device.module for device in self.devices} | fou))

    @property
    def sysctls(self) -> dict[str, str]:
        unpacking = [_NO_RETURN_PATH] if self.devices else []
        own = [f"net.ipv4.conf.{device.name}.rp_filter" for device in self.devices if device.local is None]
        return _ARP | dict.fromkeys([*unpacking, *own], "0")

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"{vip}/{vip.max_prefixlen}" for vip in self.vips)


def setup(config: Config, options: Options) -> Setup:
    """Raises NotRendered where no service forwards to such a server, or its VIPs are not known."""
    vips: set[IPAddress] = set(options.vips)
    tunnels: list[tuple[Tunnel, Server, set[IPAddress]]] = []
    found = False
    for service in config.services:
        servers = [s for s in _servers(service) if _is_meant(s, options.server)]
        for server in servers:
            found = True
            own = set(vips_of(service)) or set(options.vips)
            if not own:
                raise NotRendered(
                    f"service {service.name} binds no address by name, so its VIPs are not known",
                    where=f"service.{service.name}.bind",
                    hint="name them: --vip ADDRESS",
                )
            vips |= own
            if server.forwarding is Forwarding.TUNNEL:
                tunnels.append((server.tunnel or Tunnel(), server, own))
    if not found:
        who = f"real server {options.server}" if options.server else "real server"
        known = any(_is_meant(server, options.server) for service in config.services for server in all_servers(service))
        raise (NothingToRender if known else NotRendered)(
            f"no {who} of a direct or tunnel service",
            hint='only forwarding = "direct" and "tunnel" need a set-up on the real server',
        )
    devices: set[Device] = set()
    gue: set[tuple[str, int]] = set()
    for tunnel, server, carried in tunnels:
        outer = family_of(server.address)
        devices |= {_device(tunnel.kind, server.address, family_of(vip)) for vip in carried}
        if tunnel.kind is TunnelKind.GUE:
            gue.add(("-4" if outer is V4 else "-6", tunnel.port))
    return Setup(vips=in_order(vips), devices=tuple(sorted(devices, key=str)), gue=tuple(sorted(gue)))


def script(config: Config, options: Options) -> str:
    made = setup(config, options)
    return fill(
        "realserver.sh.j2",
        undo=options.undo,
        vips=made.addresses,
        devices=made.devices,
        gue=made.gue,
        modules=made.modules,
        sysctls=made.sysctls,
    )


def unit(config: Config, options: Options) -> str:
    setup(config, options)
    return fill("realserver.service.j2", program=command([options.program or SCRIPT]))


def sysctls(config: Config, options: Options) -> str:
    return fill("sysctl.conf.j2", purpose="a real server", settings=setup(config, options).sysctls)


def modules(config: Config, options: Options) -> str:
    return fill("modules-load.conf.j2", purpose="a real server", modules=setup(config, options).modules)


def network(config: Config, options: Options) -> str:
    return fill("realserver.network.j2", vips=setup(config, options).addresses)


def tunnel_network(config: Config, options: Options) -> str:
    devices = _only_fallback(setup(config, options), "systemd-networkd")
    if not devices:
        raise NotRendered("no tunnel reaches this real server", hint="realserver.network is all it needs")
    return fill("realserver-tunnel.network.j2", devices=devices)


def interfaces(config: Config, options: Options) -> str:
    made = setup(config, options)
    return fill("realserver.interfaces.j2", vips=made.addresses, devices=_only_fallback(made, "ifupdown"))


def _servers(service: Service) -> list[Server]:
    return [each for each in all_servers(service) if each.forwarding in (Forwarding.DIRECT, Forwarding.TUNNEL)]


def _is_meant(server: Server, wanted: str | None) -> bool:
    if wanted is None or server.name == wanted:
        return True
    try:
        return server.address == ip_address(wanted)
    except ValueError:
        return False


def _device(kind: TunnelKind, address: IPAddress, inner: Family) -> Device:
    # GUE is unpacked by its own socket; what was in it arrives as if by the plain tunnel.
    kind = TunnelKind.IPIP if kind is TunnelKind.GUE else kind
    outer = family_of(address)
    return _FALLBACK.get((kind, outer, inner)) or Device(
        f"kernlb{int(address) & 0xFFFFFF:x}", "ip6_tunnel", str(address)
    )


def _only_fallback(made: Setup, program: str) -> tuple[Device, ...]:
    if made.gue or any(device.local for device in made.devices):
        what = "GUE" if made.gue else "IPv4 in IPv6"
        raise Unsupported(f"{program} cannot set up {what} for every director", hint="use realserver.sh and its unit")
    return made.devices
