"""Whether this machine leaves the eBPF program enough source ports for full NAT."""

from collections.abc import Iterator, Mapping

from kernlb.config.values import Config
from kernlb.doctor.finding import Finding, Verdict
from kernlb.doctor.patient import Patient
from kernlb.engines import nexthops
from kernlb.model import EngineName
from kernlb.ports import PortRange
from kernlb.ratings import translated

_RANGE, _RESERVED = "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"
_ENOUGH = 4096
"""An address and server. A port rests for a minute where the server closed first."""
_USUAL = PortRange(1024, 32767)


def ports(config: Config, engines: Mapping[str, EngineName], patient: Patient) -> Iterator[Finding]:
    """Those that the eBPF program has for full NAT: of this gateway's, what this machine's own connections leave."""
    if not any(engines[service.name] is EngineName.XDP and translated(service) for service in config.services):
        return
    wanted = config.addresses.source_ports
    own, reserved = len(nexthops.ports(wanted)), patient.sysctl(_RESERVED)
    taken = wanted is not None and own < len(wanted)
    if own >= _ENOUGH and not taken:
        yield Finding("ports", "full NAT", Verdict.OK, f"{own:,} source ports an address and server")
        return
    left = f"{own:,} source ports an address and server" if own else "no source port"
    if wanted is not None and not taken:
        cause = f"addresses.source_ports leaves full NAT on xdp {left}"
        yield Finding("ports", "full NAT", Verdict.WARNING, cause, "a longer range, or more addresses under source")
        return
    of = f" of the {len(wanted):,} under addresses.source_ports" if wanted else ""
    cause = f"net.ipv4.ip_local_port_range is {patient.sysctl(_RANGE)}, which leaves full NAT on xdp {left}{of}"
    # Beside what is reserved already: the kernel's own connections keep the rest.
    fix = f"sysctl -w {_RESERVED}={','.join(filter(None, (reserved, str(wanted or _USUAL))))}"
    yield Finding("ports", "full NAT", Verdict.WARNING if own else Verdict.PROBLEM, cause, fix)
