"""This machine's kernel, put together from its engines, and what a configuration means on it."""

from collections.abc import Collection, Mapping

from kernlb.config.values import Config, chosen_engine
from kernlb.desired import SYSCTLS, Desired, desired
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.nftables import Nftables, ruleset
from kernlb.engines.sysctls import Sysctls
from kernlb.engines.vips import Vips
from kernlb.kernel import Kernel
from kernlb.listeners import listeners
from kernlb.model import EngineName, Family, MarkKey, ServiceKey
from kernlb.pool import Override, Rating, ServerName, pool
from kernlb.reconciler import Wanted


def open_kernel(config: Config) -> Kernel:
    """The engines of the network namespace this process is in."""
    interfaces = (config.addresses.interface,) if config.addresses.manage else ()
    return Kernel(
        {EngineName.IPVS: Ipvs()},
        (Nftables(), Sysctls(tuple(key.name for key in SYSCTLS)), Vips(interfaces)),
    )


def wanted(
    config: Config,
    *,
    ratings: Mapping[ServerName, Rating] | None = None,
    overrides: Mapping[ServerName, Override] | None = None,
) -> Wanted:
    """What the configuration wants of a kernel, given what else is in it."""
    engines = {service.name: chosen_engine(service, config, ipvs_available=True) for service in config.services}
    members = {s.name: pool(s, ratings=ratings, overrides=overrides).members for s in config.services}

    def given(foreign: Collection[ServiceKey]) -> Desired:
        return desired(config, members, engines=engines, ruleset=ruleset(), foreign=foreign)

    return given


def listening(key: MarkKey) -> str | None:
    """The local process that a wildcard would take traffic from."""
    family = key.address if isinstance(key.address, Family) else None
    for listener in listeners(key.protocol, first=key.first, last=key.last, family=family):
        return f"{listener.name} (process {listener.pid})"
    return None
