"""What a director's system provides before kernlb runs: kernel modules, sysctls, and the nftables table as a file."""

from dataclasses import replace

from kernlb.config.values import Announce, Config, EngineChoice, chosen_engine
from kernlb.desired import Desired, desired
from kernlb.engines.nft.listing import Listing
from kernlb.engines.nft.script import script
from kernlb.engines.nft.static import ruleset, static
from kernlb.model import (
    EngineName,
    ExemptKey,
    LimitKey,
    MarkKey,
    RulesetKey,
    Scheduler,
    SourceKey,
    Sysctl,
    SysctlKey,
    Table,
    VirtualService,
)
from kernlb.plan import diff
from kernlb.pool import pool
from kernlb.render.options import Options, fill

_NFT = (RulesetKey, MarkKey, ExemptKey, LimitKey, SourceKey)
_NFT_MODULES = (
    "nf_conntrack",
    "nf_tables",
    "nft_chain_nat",
    "nft_connlimit",
    "nft_ct",
    "nft_fib_inet",
    "nft_hash",
    "nft_masq",
    "nft_nat",
    "nft_reject_inet",
)


def modules(config: Config, options: Options) -> str:
    """For modules-load.d: the daemon itself may not load any."""
    want = _desired(config)
    names = ["ip_vs"] if config.engine.default is not EngineChoice.XDP or not config.services else []
    for key, value in want.table.items():
        if isinstance(value, VirtualService) and getattr(key, "engine", None) is EngineName.IPVS:
            names.append("ip_vs")
            if isinstance(value.scheduler, Scheduler):
                names.append(f"ip_vs_{value.scheduler}")
            if value.persistence and value.persistence.engine:
                names.append(f"ip_vs_pe_{value.persistence.engine}")
        elif isinstance(key, RulesetKey):
            names += _NFT_MODULES
    return fill("modules-load.conf.j2", purpose="a director", modules=sorted(set(names)))


def sysctls(config: Config, options: Options) -> str:
    """For sysctl.d: what the services need, so that forwarding is there before kernlb is."""
    table = _desired(config).table
    settings = {key.name: v.value for key, v in table.items() if isinstance(key, SysctlKey) and isinstance(v, Sysctl)}
    return fill("sysctl.conf.j2", purpose="a director", settings=dict(sorted(settings.items())))


def nftables(config: Config, options: Options) -> str:
    """What `kernlb apply` gives nft where there is no table yet; for a look, and for `nft -c`."""
    base = config.engine.mark_base
    table = {RulesetKey(): ruleset(mark_base=base), **_desired(config).table}
    wanted: Table = {key: value for key, value in table.items() if isinstance(key, _NFT)}
    listing = Listing()
    return str(script(diff(wanted, {}), listing, static=static(base), mark_base=base))


def _desired(config: Config) -> Desired:
    """The Table where every real server is up and IPVS is there."""
    quorate = replace(config, addresses=replace(config.addresses, announce=Announce.ALWAYS))
    engines = {each.name: chosen_engine(each, config, ipvs_available=True) for each in config.services}
    pools = {each.name: pool(each) for each in config.services}
    return desired(quorate, pools, engines=engines, ruleset=ruleset(mark_base=config.engine.mark_base))
