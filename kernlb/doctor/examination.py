"""One examination: everything that is looked at, in the order in which a packet meets it."""

from collections.abc import Mapping

from kernlb.config.values import Config
from kernlb.counters import Counters
from kernlb.doctor import engines, network
from kernlb.doctor.finding import Finding
from kernlb.doctor.patient import Patient
from kernlb.doctor.ports import ports
from kernlb.model import EngineName, Key, Table
from kernlb.pool import ServerName


def examine(
    config: Config,
    *,
    chosen: Mapping[str, EngineName],
    table: Table,
    names: Mapping[Key, ServerName],
    counted: Mapping[Key, Counters],
) -> list[Finding]:
    """Of the network namespace of the calling thread. `chosen`: the engine of each service; `table`: what is wanted of
    the kernel; `counted`: what it has counted of real servers, and `names` whose they are."""
    with Patient() as patient:
        servers = network.placed(config, chosen, patient)
        return [
            *engines.ipvs(config, chosen),
            *engines.ebpf(config, chosen, patient),
            *ports(config, chosen, patient),
            *engines.nftables(table),
            *engines.sysctls(table, patient),
            *engines.conntrack(config, patient),
            *network.vips(config, patient),
            *network.sources(config, patient),
            *network.silence(config, servers, patient),
            *network.routes(servers),
            *network.one_arm(config, servers, patient),
            *network.forward_policy(servers, patient),
            *network.answers(servers, names, counted),
            *network.tunnels(config, servers, patient),
            *network.reverse_path(config, patient),
        ]
