"""BFD instances of keepalived.conf, in and out, and the BFD_CHECKs that go by them: a session with a neighbour."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kernlb.checks.spec import BfdProbe, Check, Start
from kernlb.config.values import Server
from kernlb.formats.keepalived.syntax import Statement
from kernlb.formats.keepalived.values import address, flag, number
from kernlb.formats.report import EXACT, Ledger, Refused, Remark, approximated, exact
from kernlb.model import IPAddress

_UNSAID = BfdProbe(min_tx=0.01, min_rx=0.01, multiplier=5)
"""keepalived's defaults."""
_SENT = 255
_TTL = approximated(f"packets leave with {_SENT}, as RFC 5881 demands; only those that come are judged by this")
_EARLY = approximated("a server with which no session comes up is down after some seconds; keepalived waits for one")

Session = tuple[IPAddress, IPAddress | None, BfdProbe]
"""The neighbour, the own address, and how they speak."""


@dataclass(slots=True)
class Instance:
    """One `bfd_instance` block. `used` tells whether a real server goes by it; the others are VRRP's."""

    statement: Statement
    used: bool = False

    def session(self, ledger: Ledger) -> Session:
        neighbour, source, ttl, hops, probe = None, None, None, 0, _UNSAID
        for inner in self.statement.body:
            remark = EXACT
            try:
                match inner.keyword:
                    case "neighbor_ip" | "neighbour_ip":
                        neighbour = address(inner.argument())
                    case "source_ip":
                        source = address(inner.argument())
                    case "ttl" | "hoplimit":
                        ttl = number(inner, lowest=1, highest=255)
                        remark = EXACT if ttl == _SENT else _TTL
                    case "max_hops":
                        hops = 255 if inner.argument() == "-1" else number(inner, highest=255)
                    case _:
                        probe, remark = _setting(probe, inner)
                ledger.say(inner.line, remark)
            except Refused as refused:
                ledger.refuse(inner.line, refused, path="bfd_instance")
        if neighbour is None:
            raise Refused(f"bfd_instance {self.statement.argument()!r} has no neighbor_ip")
        if source is not None and source.version != neighbour.version:
            raise Refused(f"{source} and {neighbour} are not of the same family")
        if ttl is None:
            ttl = 255 if neighbour.version == 4 else 64
            ledger.say(self.statement.line, EXACT if ttl == _SENT else _TTL)
        lowest = 1 if hops == 255 else max(1, ttl - hops)
        return neighbour, source, probe if lowest == probe.lowest_ttl else replace(probe, min_ttl=lowest)


def bfd_check(
    statement: Statement, instances: Mapping[str, Instance], server: IPAddress, ledger: Ledger, *, alpha: bool
) -> Check:
    """The check of a BFD_CHECK block."""
    instance = None
    for inner in statement.body:
        match inner.keyword:
            case "name":
                instance = instances.get(inner.argument())
                if instance is None:
                    raise Refused(f"there is no bfd_instance {inner.argument()!r} above")
            case "alpha":
                alpha = flag(inner)
            case word:
                raise Refused(f"unknown keyword {word!r} in BFD_CHECK")
    if instance is None:
        raise Refused("BFD_CHECK expects name")
    instance.used = True
    told = {inner.keyword for inner in instance.statement.body} & {"vrrp", "checker"}
    if told == {"vrrp"}:
        raise Refused(f"bfd_instance {instance.statement.argument()!r} is for VRRP alone", hint="add checker to it")
    neighbour, source, probe = instance.session(ledger)
    ledger.say(statement.line, EXACT if alpha else _EARLY)
    return Check(
        probe=probe,
        rise=1,
        fall=1,
        start=Start.DOWN if alpha else Start.LAST,
        address=None if neighbour == server else neighbour,
        bind_address=source,
    )


def _setting(probe: BfdProbe, statement: Statement) -> tuple[BfdProbe, Remark]:
    match statement.keyword:
        case "min_tx":
            return replace(probe, min_tx=_seconds(statement)), EXACT
        case "min_rx":
            return replace(probe, min_rx=_seconds(statement)), EXACT
        case "idle_tx":
            usual = _seconds(statement) == 1
            return probe, EXACT if usual else approximated("one packet a second while the session is not up")
        case "multiplier":
            return replace(probe, multiplier=number(statement, lowest=1, highest=255)), EXACT
        case "passive":
            return replace(probe, passive=True), EXACT
        case "multihop":
            return replace(probe, multihop=flag(statement)), EXACT
        case "weight":
            return probe, exact("of VRRP alone")
        case "vrrp" | "checker":
            return probe, EXACT
    raise Refused(f"unknown keyword {statement.keyword!r} in bfd_instance")


def _seconds(statement: Statement) -> float:
    word = statement.argument()
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,3})?", word, re.ASCII) or not 1 <= float(word) <= 4294967:
        raise Refused(f"{statement.keyword!r} takes milliseconds from 1 to 4294967, not {word!r}")
    return round(float(word) / 1000, 6)


# --- out


def session_of(check: Check, server: IPAddress) -> Session | None:
    if not isinstance(check.probe, BfdProbe):
        return None
    return check.address or server, check.bind_address, check.probe


def names_of(servers: Sequence[Server]) -> dict[Session, str]:
    """Every session with a name for keepalived."""
    found = (session_of(check, server.address) for server in servers for check in server.checks)
    return {session: f"bfd{number}" for number, session in enumerate(dict.fromkeys(s for s in found if s), 1)}


def block(session: Session, name: str) -> Iterator[str]:
    neighbour, source, probe = session
    yield f"bfd_instance {name} {{"
    yield f"    neighbor_ip {neighbour}"
    if source is not None:
        yield f"    source_ip {source}"
    yield f"    min_rx {_milliseconds(probe.min_rx)}"
    yield f"    min_tx {_milliseconds(probe.min_tx)}"
    yield f"    multiplier {probe.multiplier}"
    if neighbour.version == 6:
        yield f"    hoplimit {_SENT}"
    if probe.lowest_ttl != _SENT:
        yield f"    max_hops {_SENT - probe.lowest_ttl}"
    if probe.passive:
        yield "    passive"
    if probe.multihop:
        yield "    multihop"
    yield "}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".")
