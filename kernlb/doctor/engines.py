"""What carries the services: IPVS and its modules, the eBPF program, drivers, nftables, sysctls, conntrack."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from kernlb.config.values import Config
from kernlb.doctor.drivers import xdp_features
from kernlb.doctor.finding import Finding, Verdict
from kernlb.doctor.patient import Patient
from kernlb.doctor.program import try_program
from kernlb.engines import admission
from kernlb.engines.ipvs import Ipvs
from kernlb.engines.nftables import Nftables
from kernlb.errors import KernelError, KernlbError, Unsupported
from kernlb.model import EngineName, RulesetKey, Sysctl, SysctlKey, Table

_FULL = 0.8
"""Share of conntrack's table from which on new connections are in danger."""


def ipvs(config: Config, engines: Mapping[str, EngineName]) -> Iterator[Finding]:
    """The kernel's IPVS, and for each service that it carries its scheduler, persistence engine and tunnels."""
    carried = [service for service in config.services if engines[service.name] is EngineName.IPVS]
    try:
        with Ipvs() as engine:
            yield Finding("ipvs", "this kernel", Verdict.OK, f"has IPVS {'.'.join(map(str, engine.info().version))}")
            for service in carried:
                yield _tried("ipvs", f"service.{service.name}", partial(engine.admit, service))
    except Unsupported as missing:
        verdict = Verdict.PROBLEM if carried else Verdict.WARNING
        yield Finding("ipvs", "this kernel", verdict, missing.message, missing.hint or "")


def ebpf(config: Config, engines: Mapping[str, EngineName], patient: Patient) -> Iterator[Finding]:
    """Whether the kernel takes the program, and how it will hang at the interfaces."""
    carried = [service for service in config.services if engines[service.name] is EngineName.XDP]
    try:
        try_program()
        yield Finding("ebpf", "this kernel", Verdict.OK, "takes the eBPF program")
    except (KernlbError, OSError) as error:
        message, hint = (error.message, error.hint) if isinstance(error, KernlbError) else (str(error), None)
        yield Finding("ebpf", "this kernel", Verdict.PROBLEM if carried else Verdict.WARNING, message, hint or "")
        return
    for service in carried:
        yield _tried("ebpf", f"service.{service.name}", partial(admission.admit, service))
    if patient.sysctl("net.core.bpf_jit_enable") == "0":
        cause = "net.core.bpf_jit_enable is 0: every packet goes through the kernel's interpreter"
        yield Finding("ebpf", "this kernel", Verdict.WARNING, cause, "sysctl -w net.core.bpf_jit_enable=1")
    yield from interfaces(config, engines, patient)


def interfaces(config: Config, engines: Mapping[str, EngineName], patient: Patient) -> Iterator[Finding]:
    """Those that the eBPF program is to hang at."""
    if EngineName.XDP in engines.values():
        yield from (_interface(name, patient) for name in config.engine.interfaces)


def _interface(name: str, patient: Patient) -> Finding:
    link = next((link for link in patient.links.values() if link.name == name), None)
    about = f"interface {name}"
    if link is None:
        known = ", ".join(link.name for link in patient.links.values() if not link.loopback) or "none"
        return Finding("driver", about, Verdict.PROBLEM, "is not there", f"[engine] interfaces: there is {known}")
    if not link.up:
        return Finding("driver", about, Verdict.PROBLEM, "is down", f"ip link set {name} up")
    features = xdp_features(link.index)
    if features is None:
        return Finding("driver", about, Verdict.OK, "this kernel does not tell whether its driver does XDP (since 6.3)")
    if features:
        return Finding("driver", about, Verdict.OK, "its driver does XDP")
    return Finding("driver", about, Verdict.OK, "its driver does no XDP: the program hangs at tc")


def nftables(table: Table) -> Iterator[Finding]:
    """Asked only where something is wanted of it."""
    needed = RulesetKey() in table
    try:
        Nftables().read()
    except (Unsupported, KernelError) as error:
        verdict = Verdict.PROBLEM if needed else Verdict.WARNING
        cause = error.message if needed else f"{error.message}; wildcards, port ranges, full NAT and limits need it"
        yield Finding("nftables", "this machine", verdict, cause, error.hint or "")
    else:
        yield Finding("nftables", "this machine", Verdict.OK, "there is nft, and the kernel answers it")


def sysctls(table: Table, patient: Patient) -> Iterator[Finding]:
    """What apply will set: told, and a problem only where it cannot."""
    for key, wanted in table.items():
        if not isinstance(key, SysctlKey) or not isinstance(wanted, Sysctl):
            continue
        have = patient.sysctl(key.name)
        if have == wanted.value:
            yield Finding("sysctl", key.name, Verdict.OK, f"is {have}, as the services need it")
        elif patient.may_write_sysctls:
            yield Finding(
                "sysctl", key.name, Verdict.OK, f"is {have or 'not there yet'}; apply sets it to {wanted.value}"
            )
        else:
            cause = f"is {have or 'not there'}, and /proc/sys cannot be written here"
            yield Finding("sysctl", key.name, Verdict.PROBLEM, cause, f"outside: sysctl -w {key.name}={wanted.value}")


def conntrack(config: Config, patient: Patient) -> Iterator[Finding]:
    """Room for connections. Limits count what conntrack sees."""
    if patient.connections is None:
        return
    count, most = patient.connections
    fix = f"sysctl -w net.netfilter.nf_conntrack_max={2 * max(most, _allowed(config))}"
    if count >= most * _FULL:
        cause = f"{count} of {most} connections: the kernel drops new ones when the table is full"
        yield Finding("conntrack", "this machine", Verdict.PROBLEM, cause, fix)
    elif _allowed(config) > most:
        cause = f"{_allowed(config)} connections are allowed by max_connections, but the table holds {most}"
        yield Finding("conntrack", "this machine", Verdict.WARNING, cause, fix)
    else:
        yield Finding("conntrack", "this machine", Verdict.OK, f"{count} of {most} connections")


def _allowed(config: Config) -> int:
    """The most connections that the limits let in; 0 where there are none."""
    each = sum(service.max_connections or 0 for service in config.services)
    return min(filter(None, (each, config.max_connections)), default=0)


def _tried(topic: str, about: str, admit: Callable[[], None]) -> Finding:
    try:
        admit()
    except Unsupported as refused:
        return Finding(topic, about, Verdict.PROBLEM, refused.message, refused.hint or "")
    return Finding(topic, about, Verdict.OK, "can be carried here")
