"""What the daemon's watch costs while nothing happens, and its memory: 1,000 services of 10 servers in IPVS.

IPVS notifies nobody, so the daemon looks at its table once a second and reads all of it once a minute. Beside it what
IPVS' own program takes for one listing a second, and what the kernel takes to print the text that is looked at.

Where the running kernel has no IPVS this runs in User Mode Linux: Python and the kernel are as fast there as on this
machine, which the last table shows, and a system call costs some 50 µs instead of one. So what is found is an upper
bound. It is the processor time of the process that is the guest, in which nothing runs but the daemon: the guest's own
kernel counts in ticks of 10 ms, and what takes less may fall between them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.apply import SERVERS, SERVICES, kernlb_rules, rules
from bench.harness import Report, machine
from bench.idle import daemon, figures, idle, look, recorded, share
from tests.engines.namespace import fresh_network

NEEDS_IPVS = True
USER_MODE = True

Progress = Callable[[str], None]


def run(rounds: int, progress: Progress) -> Report:
    with fresh_network(), tempfile.TemporaryDirectory() as name:
        file = Path(name, "kernlb.toml")
        file.write_text(kernlb_rules(rules()))
        ours = ("kernlb run", "kernlb run, as its kernel counts it")
        peers: dict[str, list[float]] = {name: [] for name in (*ours, "ipvsadm -Ln, each second", "cat, each second")}
        memory = []
        with daemon(file, Path(name)) as process:
            progress("the daemon runs")
            for _ in range(rounds):
                found = idle(process)
                memory.append(found.memory)
                own = (found.share, found.counted, share("ipvsadm", "-Ln"), share("cat", "/proc/net/ip_vs"))
                for (peer, values), value in zip(peers.items(), own, strict=True):
                    values.append(value)
                    progress(f"{peer}: {value:.1f} % of a core")
    looks = [look(recorded(SERVICES, SERVERS)) for _ in range(rounds)]
    return Report("drift", figures("IPVS", peers, memory, looks), machine=machine())
