"""Programs that bring a VIP's traffic to the right director: keepalived by VRRP, BIRD and FRR by BGP."""

from typing import Any

from kernlb.config.values import Config
from kernlb.errors import Conflict
from kernlb.model import Family, IPAddress, family_of
from kernlb.render.options import NotRendered, Options, fill, in_order, managed, vips_of

ADVERTISED = 20
"""More addresses do not fit keepalived's VRRP packet."""


def keepalived(config: Config, options: Options) -> str:
    """VRRP for the VIPs. Raises Conflict where kernlb puts one of them on an interface itself."""
    vips = in_order({*vips_of(*config.services), *options.vips})
    if not vips:
        raise NotRendered("no service binds an address by name, so the VIPs are not known", hint="--vip ADDRESS")
    if ours := in_order(managed(config) & set(vips)):
        raise Conflict(
            f"kernlb itself puts {', '.join(map(str, ours))} on {config.addresses.interface}: VRRP must not do it too",
            where="addresses.manage",
            hint="set [addresses] manage = false, or let BGP announce them (kernlb render bird.conf, frr.conf)",
        )
    if options.interface is None:
        raise NotRendered("VRRP needs an interface to speak on", hint="--interface NAME")
    texts = [f"{vip}/{vip.max_prefixlen} dev {options.interface}" for vip in vips]
    texts += [f"{each.address.with_prefixlen} dev {each.interface}" for each in options.floating]
    family = vips[0].version
    own = [text for text in texts if (":" in text) == (family == 6)]
    return fill(
        "keepalived.conf.j2",
        interface=options.interface,
        virtual_router=options.virtual_router,
        priority=options.priority,
        peers=options.peers,
        track_file=options.track_file,
        advertised=own[:ADVERTISED],
        carried=[*own[ADVERTISED:], *(text for text in texts if text not in own)],
    )


def bird(config: Config, options: Options) -> str:
    return fill("bird.conf.j2", **_bgp(config, options))


def frr(config: Config, options: Options) -> str:
    return fill("frr.conf.j2", **_bgp(config, options))


def _bgp(config: Config, options: Options) -> dict[str, Any]:
    vips = in_order(managed(config))
    if not vips:
        raise NotRendered(
            "BGP announces the VIPs that kernlb keeps on an interface, and it keeps none",
            where="addresses.manage",
            hint='set [addresses] manage = true and announce = "quorum", and bind services to addresses',
        )
    if options.local_as is None or not options.neighbours:
        raise NotRendered("BGP needs an autonomous system and neighbours", hint="--local-as N --neighbour ADDRESS@AS")
    return {
        "interface": config.addresses.interface,
        "families": _prefixes(vips),
        "local_as": options.local_as,
        "neighbours": options.neighbours,
        "router_id": options.router_id,
    }


def _prefixes(vips: tuple[IPAddress, ...]) -> dict[str, list[str]]:
    families: dict[str, list[str]] = {}
    for vip in vips:
        families.setdefault(str(family_of(vip)), []).append(f"{vip}/{vip.max_prefixlen}")
    return {family: families[family] for family in map(str, Family) if family in families}
