"""Whose state a check takes up, after a reload or a restart: a check a check's, an agent an agent's. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kernlb.checks.spec import AgentProbe, Check
from kernlb.health import State, combined


@dataclass(frozen=True, slots=True)
class Standing:
    """What the checks and the agents of one server said last, each in their order. Without `agents` they stand among
    the checks: state files were so once."""

    checks: tuple[State, ...] = ()
    agents: tuple[State, ...] | None = ()

    @property
    def together(self) -> State | None:
        """What the server is by all of them; None where nobody has said anything."""
        states = (*self.checks, *(self.agents or ()))
        return combined(states) if states else None

    def heirs(self, checks: Sequence[Check]) -> list[State | None]:
        """What each of these takes up. Where there are more or fewer of a kind than before, what they said together."""
        if self.agents is None:
            return list(self.checks) if len(self.checks) == len(checks) else [None] * len(checks)
        kinds = [is_agent(check) for check in checks]
        heritage = {
            True: _handed_down(self.agents, kinds.count(True)),
            False: _handed_down(self.checks, kinds.count(False)),
        }
        return [next(heritage[kind]) for kind in kinds]


def standing(states: Iterable[tuple[Check, State]]) -> Standing:
    states = list(states)
    return Standing(
        tuple(state for check, state in states if not is_agent(check)),
        tuple(state for check, state in states if is_agent(check)),
    )


def is_agent(check: Check) -> bool:
    return isinstance(check.probe, AgentProbe)


def _handed_down(states: Sequence[State], heirs: int) -> Iterator[State | None]:
    if len(states) == heirs:
        return iter(states)
    return iter([combined(states) if states else None] * heirs)
