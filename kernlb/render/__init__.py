"""A configuration as text for other programs: units, firewall, real servers, VRRP and BGP companions.

Values in, text out: reads no file but the templates, writes none, and asks no kernel.
"""

from collections.abc import Callable
from enum import StrEnum

from kernlb.config.values import Config
from kernlb.render.options import Options

__all__ = ["Options", "Template", "render"]


class Template(StrEnum):
    """Named as the file that comes out, or as the directory that takes it."""

    SERVICE = "kernlb.service"
    APPLY_SERVICE = "kernlb-apply.service"
    MODULES = "modules-load.d"
    SYSCTL = "sysctl.d"
    NFTABLES = "nftables"
    REAL_SERVER = "realserver.sh"
    REAL_SERVER_SERVICE = "realserver.service"
    REAL_SERVER_SYSCTL = "realserver-sysctl.d"
    REAL_SERVER_MODULES = "realserver-modules-load.d"
    REAL_SERVER_NETWORK = "realserver.network"
    REAL_SERVER_TUNNEL_NETWORK = "realserver-tunnel.network"
    REAL_SERVER_INTERFACES = "realserver.interfaces"
    KEEPALIVED = "keepalived.conf"
    BIRD = "bird.conf"
    FRR = "frr.conf"


TAKES: dict[Template, frozenset[str]] = {
    Template.SERVICE: frozenset({"program", "arguments"}),
    Template.APPLY_SERVICE: frozenset({"program", "arguments"}),
    Template.MODULES: frozenset(),
    Template.SYSCTL: frozenset(),
    Template.NFTABLES: frozenset(),
    Template.REAL_SERVER: frozenset({"server", "vips", "undo"}),
    Template.REAL_SERVER_SERVICE: frozenset({"server", "vips", "program"}),
    Template.REAL_SERVER_SYSCTL: frozenset({"server", "vips"}),
    Template.REAL_SERVER_MODULES: frozenset({"server", "vips"}),
    Template.REAL_SERVER_NETWORK: frozenset({"server", "vips"}),
    Template.REAL_SERVER_TUNNEL_NETWORK: frozenset({"server", "vips"}),
    Template.REAL_SERVER_INTERFACES: frozenset({"server", "vips"}),
    Template.KEEPALIVED: frozenset({"vips", "interface", "virtual_router", "priority", "floating", "peers"}),
    Template.BIRD: frozenset({"local_as", "neighbours", "router_id"}),
    Template.FRR: frozenset({"local_as", "neighbours", "router_id"}),
}
"""The fields of Options that mean something to each template."""


def render(template: Template, config: Config, options: Options) -> str:
    """The file's text. Raises NotRendered where the configuration or the options do not say enough, Conflict where
    the file and kernlb would both do the same."""
    import kernlb.render.companions as companions
    import kernlb.render.director as director
    import kernlb.render.real_server as real_server
    import kernlb.render.units as units

    makers: dict[Template, Callable[[Config, Options], str]] = {
        Template.SERVICE: units.service,
        Template.APPLY_SERVICE: units.apply_service,
        Template.MODULES: director.modules,
        Template.SYSCTL: director.sysctls,
        Template.NFTABLES: director.nftables,
        Template.REAL_SERVER: real_server.script,
        Template.REAL_SERVER_SERVICE: real_server.unit,
        Template.REAL_SERVER_SYSCTL: real_server.sysctls,
        Template.REAL_SERVER_MODULES: real_server.modules,
        Template.REAL_SERVER_NETWORK: real_server.network,
        Template.REAL_SERVER_TUNNEL_NETWORK: real_server.tunnel_network,
        Template.REAL_SERVER_INTERFACES: real_server.interfaces,
        Template.KEEPALIVED: companions.keepalived,
        Template.BIRD: companions.bird,
        Template.FRR: companions.frr,
    }
    return makers[template](config, options)
