"""Which real servers of a service take traffic, and with what weight. No kernel, no clock: ratings in, members out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kernlb.checks.spec import HEAVIEST, AgentProbe, FileProbe, Probe
from kernlb.config.values import OnFailure, Policy, Server, Service

MOVING_SCALE = 100
"""The kernel's units in a configured one where weights move (slow start, least response time, agents)."""


class Hold(StrEnum):
    """What an operator ordered of a real server: no new connections. DRAIN ends with its removal."""

    DRAIN = "drain"
    DISABLE = "disable"


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's word on one real server; it outlives restarts and reloads. `weight` in configured units; `since`
    and `deadline` of the hold in seconds since the epoch. `drained`: the drain has ended, the server is out."""

    weight: int | None = None
    hold: Hold | None = None
    deadline: float | None = None
    drained: bool = False
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Rating:
    """What the checks say of one real server. `factor` is its share of the configured weight now; `weight` (in
    configured units) and `max_connections` are its own wish in place of the configured ones; `adjust` is added."""

    up: bool = True
    held: bool = False
    factor: float = 1.0
    weight: int | None = None
    adjust: int = 0
    max_connections: int | None = None


ServerName = tuple[str, str]
"""Service and server, by their configured names."""

_WELL = Rating()
_NO_OVERRIDE = Override()


@dataclass(frozen=True, slots=True)
class Member:
    """A real server that belongs in the kernel now; weight in the kernel's units, 0 means quiesced."""

    server: Server
    weight: int


@dataclass(frozen=True, slots=True)
class Pool:
    """`out` names the servers that are dead or drained and leave the kernel at once; others leave by quiescing."""

    members: tuple[Member, ...]
    quorum: bool
    panic: bool = False
    sorry: bool = False
    out: frozenset[str] = frozenset()


def scale_of(service: Service) -> int:
    """How many of the kernel's weight units make a configured one."""
    moving = isinstance(service.scheduler, Policy) or any(_moves(server) for server in service.servers)
    return MOVING_SCALE if moving else 1


def configured_weight(server: Server, rating: Rating = _WELL, override: Override = _NO_OVERRIDE) -> int:
    """In configured units: the operator's word, else the server's own wish, else the file's, adjusted."""
    if override.weight is not None:
        return override.weight
    weight = server.weight if rating.weight is None else rating.weight
    return max(0, min(weight + rating.adjust, HEAVIEST)) if rating.adjust else weight


def pool(
    service: Service,
    *,
    ratings: Mapping[ServerName, Rating] | None = None,
    overrides: Mapping[ServerName, Override] | None = None,
    had_quorum: bool = True,
) -> Pool:
    """The members of a service. Without ratings every server counts as up.

    Who is held, or whose weight or factor is 0, stands in for nobody: neither as backup nor as sorry server. Backups
    serve when no primary can (HAProxy's rule). Where fewer primaries than the share `panic` are up, backups that are
    well help them (as Envoy spills over to the next priority); only where no backup is well either, all primaries are
    trusted, down as they seem.

    `had_quorum` is the state before: quorum is reached at quorum + hysteresis and lost below quorum - hysteresis
    (keepalived's rule); a backup that serves is quorum enough. Without quorum the sorry server, where there is one,
    takes the place of all; the trusted count as alive, so with `panic` it is called only where their weight is too
    little.
    """
    ratings, overrides = ratings or {}, overrides or {}
    rated = {s.name: ratings.get((service.name, s.name), _WELL) for s in _all(service)}
    ordered = {s.name: overrides.get((service.name, s.name), _NO_OVERRIDE) for s in _all(service)}
    scale = scale_of(service)

    def configured(server: Server) -> int:
        return configured_weight(server, rated[server.name], ordered[server.name])

    def held(server: Server) -> bool:
        return server.disabled or rated[server.name].held or ordered[server.name].hold is not None

    def gone(server: Server) -> bool:
        return ordered[server.name].drained

    def member(server: Server, *, trusted: bool) -> Member | None:
        rating = rated[server.name]
        up = rating.up or trusted
        if gone(server) or (not up and service.on_failure is OnFailure.REMOVE):
            return None
        if rating.max_connections is not None:
            server = replace(server, max_connections=rating.max_connections)
        factor = 1.0 if trusted else rating.factor
        if not up or held(server) or not configured(server) or not factor:
            return Member(server, 0)
        return Member(server, max(1, round(configured(server) * scale * factor)))

    def serving(server: Server) -> Member | None:
        found = member(server, trusted=False)
        return found if found and found.weight else None

    primaries = [s for s in service.servers if not s.backup]
    usable = [s for s in primaries if not held(s) and not gone(s) and configured(s) and rated[s.name].factor]
    alive = [s for s in usable if rated[s.name].up]
    few = len(alive) < len(usable) * service.panic
    stand_ins = [m for s in service.servers if s.backup and (m := serving(s))] if few or not alive else []
    panic = few and not stand_ins
    if panic:
        alive = usable
    weight = sum(configured(s) for s in alive)
    quorum = bool(stand_ins) or weight >= service.quorum + (-service.hysteresis if had_quorum else service.hysteresis)
    members = [m for s in primaries if (m := member(s, trusted=panic))]
    members += stand_ins if service.all_backups else stand_ins[:1]
    sorry = None if quorum or service.sorry_server is None else serving(service.sorry_server)
    if sorry is not None:
        members = [*(Member(m.server, 0) for m in members), sorry]
    present = {m.server.name for m in members}
    out = {s.name for s in _all(service) if s.name not in present and (gone(s) or not rated[s.name].up)}
    return Pool(tuple(members), quorum, panic, sorry is not None, frozenset(out))


def _moves(server: Server) -> bool:
    """Something may give a share of the configured weight: a slow start, an agent, a file."""
    return bool(server.slow_start) or any(_shares(check.probe) for check in server.probed)


def _shares(probe: Probe) -> bool:
    return isinstance(probe, AgentProbe) or (isinstance(probe, FileProbe) and probe.adjust is None)


def _all(service: Service) -> list[Server]:
    return [*service.servers, *([service.sorry_server] if service.sorry_server else [])]
