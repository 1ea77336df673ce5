"""What the daemon's watch costs while nothing happens, and its memory: 1,000 services of 10 servers in eBPF maps.

The servers are behind one router: nothing of the network changes either.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.apply import SERVERS, SERVICES, kernlb_rules, rules
from bench.harness import Report, machine
from bench.idle import daemon, figures, idle, look, recorded
from tests.system.network import inside, ip, namespaces

WIRE = """\
link add wire type veth peer name far
link set wire up
link set far up
addr add 10.0.0.1/24 dev wire
neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev wire nud permanent
route add 10.128.0.0/9 via 10.0.0.2
"""

Progress = Callable[[str], None]


def run(rounds: int, progress: Progress) -> Report:
    with namespaces("drift") as (place,), tempfile.TemporaryDirectory() as name:
        ip(place, WIRE)
        file = Path(name, "kernlb.toml")
        text = kernlb_rules(rules()).replace('"ipvs"', '"xdp"\ninterfaces = ["wire"]').replace('"nat"', '"fullnat"')
        file.write_text(text)
        with inside(place), daemon(file, Path(name)) as process:
            progress("the daemon runs")
            found = [idle(process) for _ in range(rounds)]
    looks = [look(recorded(SERVICES, SERVERS)) for _ in range(rounds)]
    shares = {"kernlb run": [each.share for each in found]}
    return Report("drift_xdp", figures("eBPF maps", shares, [each.memory for each in found], looks), machine=machine())
