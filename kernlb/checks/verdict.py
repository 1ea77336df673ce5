"""What a probe found: up or down, why, how fast, and what the server asked for. Pure.

Codes are those that HAProxy's users read: L4 connection, L6 TLS, L7 application; OK, CON refused, TOUT timeout,
RSP invalid answer, STS answer of the wrong status. PROC is a command or a file.
"""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    UP = "up"
    DOWN = "down"
    NEUTRAL = "neutral"  # says nothing about the server: an agent that cannot be reached, or gives only a weight


class Administration(StrEnum):
    """What a server's agent asks for, beyond up and down."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class Code(StrEnum):
    L4OK = "L4OK"
    L4CON = "L4CON"
    L4TOUT = "L4TOUT"
    L6OK = "L6OK"
    L6RSP = "L6RSP"
    L6TOUT = "L6TOUT"
    L7OK = "L7OK"
    L7RSP = "L7RSP"
    L7STS = "L7STS"
    L7TOUT = "L7TOUT"
    PROCOK = "PROCOK"
    PROCERR = "PROCERR"
    PROCTOUT = "PROCTOUT"
    INTERNAL = "INTERNAL"  # the director could not probe: no descriptor, no route of its own, no such user


SILENCES = frozenset({Code.L4TOUT, Code.L6TOUT, Code.L7TOUT, Code.PROCTOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What stays in force until the server says otherwise; None leaves as it was.

    `share` is a fraction of the configured weight, 0..256; `weight` replaces it,
    in configured units; `adjust` is added to it. `up` acts at once, past rise and fall.
    """

    share: float | None = None
    weight: int | None = None
    adjust: int | None = None
    administration: Administration | None = None
    up: bool | None = None
    max_connections: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`seconds` to the first byte of the answer (a tcp probe: SYN to SYN+ACK); None where none came."""

    outcome: Outcome
    code: Code
    reason: str
    seconds: float | None = None
    orders: Orders | None = None

    @property
    def silent(self) -> bool:
        """Nothing came: it may be the way as well as the server."""
        return self.code in SILENCES

    @property
    def text(self) -> str:
        """One line for people: "L4CON connection refused"."""
        return f"{self.code} {self.reason}" if self.reason else str(self.code)
