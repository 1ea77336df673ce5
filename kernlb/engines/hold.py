"""Holds new TCP connections of virtual services for a moment: their SYNs are dropped, so that clients repeat them
after a second instead of being refused. What was there before goes on.

The nftables table that does so belongs to a process of nft: whatever becomes of kernlb, it ends with that process.
"""

import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from select import select

from kernlb.engines import nftables
from kernlb.model import Endpoint, Family, Fwmark, Protocol, ServiceKey

TABLE = "kernlb_hold"
_SECONDS = 10.0
"""Patience with nft; then the connections are not held."""
_PAUSE = 0.002


@contextmanager
def held(services: Collection[ServiceKey]) -> Iterator[bool]:
    """Whether they are held inside the block. Needs the program nft and a kernel that knows owners of tables (5.12)."""
    rules = [rule for service in services if (rule := _rule(service)) is not None]
    nft = nftables.program() if rules else None
    if nft is None:
        yield False
        return
    with subprocess.Popen(
        [nft, "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            yield _begun(process, nft, rules)
        finally:
            process.kill()


def _begun(process: subprocess.Popen[bytes], nft: str, rules: list[str]) -> bool:
    # IPVS looks at what arrives at priority 98, after kernlb's own marks and limits.
    chain = f"chain held {{ type filter hook input priority filter + 91; {'; '.join(rules)}; }}"
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        process.stdin.write(f"add table inet {TABLE} {{ flags owner; {chain}; }}\n".encode())
        process.stdin.flush()
    except BrokenPipeError:
        return False
    end = time.monotonic() + _SECONDS
    while process.poll() is None and not select([process.stderr], [], [], _PAUSE)[0] and time.monotonic() < end:
        listed = subprocess.run([nft, "list", "table", "inet", TABLE], capture_output=True, check=False)
        if listed.returncode == 0:
            return True
    return False


def _rule(service: ServiceKey) -> str | None:
    """None for what is not repeated."""
    match service:
        case Endpoint(protocol=Protocol.TCP, address=address, port=port):
            family = "ip" if service.family is Family.IPV4 else "ip6"
            where = f"{family} daddr {address}" + (f" tcp dport {port}" if port else "")
        case Fwmark(mark=mark):
            where = f"meta mark {mark:#x}"
        case _:
            return None
    return f"{where} tcp flags & (syn | ack) == syn drop"
