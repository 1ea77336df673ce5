"""A Table as rules for `ipvsadm -R`, in the order and with the options of `ipvsadm -Sn`."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

from kernlb.formats.ipvsadm.words import CHECKSUM_OPTIONS, FORWARDING_OPTIONS, SERVICE_OPTIONS
from kernlb.model import (
    Family,
    Fwmark,
    IPAddress,
    RealServer,
    Scheduler,
    SchedulerFlag,
    ServerKey,
    ServiceKey,
    Table,
    TunnelKind,
    VirtualService,
    servers_by_service,
    services,
)


def write_table(table: Table) -> str:
    """One rule a line, each service followed by its servers, in the order of the Table."""
    pools = servers_by_service(table)
    return "".join(f"{rule}\n" for key, value in services(table) for rule in _rules(key, value, pools[key]))


def _rules(key: ServiceKey, value: VirtualService, pool: Sequence[tuple[ServerKey, RealServer]]) -> Iterator[str]:
    where = _where(key)
    words = [f"-A {where} -s {value.scheduler}"]
    if value.persistence is not None:
        words.append(f"-p {value.persistence.timeout}")
        if value.persistence.prefix != (32 if key.family is Family.IPV4 else 128):
            words.append(f"-M {_mask(value.persistence.prefix, key.family)}")
        if value.persistence.engine is not None:
            words.append(f"--pe {value.persistence.engine}")
    if value.one_packet:
        words.append("-o")
    if value.flags:
        words.append(f"-b {','.join(sorted(_flag(flag, value.scheduler) for flag in value.flags))}")
    yield " ".join(words)
    for server, real in pool:
        yield f"-a {where} -r {_host(server.address, server.port)} {' '.join(_server_words(real))}"


def _server_words(real: RealServer) -> Iterator[str]:
    yield FORWARDING_OPTIONS.get(real.forwarding, "-m")
    if real.tunnel is not None and real.tunnel.kind is not TunnelKind.IPIP:
        yield f"--tun-type {real.tunnel.kind}"
        if real.tunnel.port:
            yield f"--tun-port {real.tunnel.port}"
        yield CHECKSUM_OPTIONS[real.tunnel.checksum]
    yield f"-w {real.weight}"
    if real.upper_threshold:
        yield f"-x {real.upper_threshold}"
    if real.lower_threshold:
        yield f"-y {real.lower_threshold}"


def _flag(flag: SchedulerFlag, scheduler: Scheduler | str) -> str:
    named = scheduler in (Scheduler.SH, Scheduler.MH) and flag is not SchedulerFlag.FLAG_3
    numbered = {SchedulerFlag.FALLBACK: "flag-1", SchedulerFlag.PORT: "flag-2", SchedulerFlag.FLAG_3: "flag-3"}
    return f"{scheduler}-{flag}" if named else numbered[flag]


def _where(key: ServiceKey) -> str:
    if isinstance(key, Fwmark):
        return f"-f {key.mark}" + (" -6" if key.family is Family.IPV6 else "")
    if isinstance(key.address, Family):
        raise ValueError("a virtual service of IPVS has an address or a mark")
    return f"{SERVICE_OPTIONS[key.protocol]} {_host(key.address, key.port)}"


def _host(address: IPAddress, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _mask(prefix: int, family: Family) -> str:
    return str(prefix) if family is Family.IPV6 else str(IPv4Network((0, prefix)).netmask)
