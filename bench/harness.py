"""Peers measured side by side: in rounds, each of them once a round, and never always in the same order.

A figure by itself means little on a shared or emulated machine; the ratio within one run is what counts.
"""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Peer:
    """`measure` prepares, does one round and returns its figure."""

    name: str
    measure: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Less is better. `budget` is what a series named in `held` may be, as a multiple of the baseline's median; where
    values are `paired`, taken one right after the other, it is the median of their ratios."""

    title: str
    unit: str
    series: tuple[Series, ...]
    baseline: str | None = None
    budget: float | None = None
    held: tuple[str, ...] = ()
    paired: bool = False

    def ratio(self, series: Series) -> float | None:
        base = next((one for one in self.series if one.name == self.baseline), None)
        if base is None or not base.median:
            return None
        if self.paired:
            return median(one / other for one, other in zip(series.values, base.values, strict=True))
        return series.median / base.median

    def within(self, series: Series) -> bool | None:
        """Whether the budget is kept; None where it holds nobody to anything."""
        ratio = self.ratio(series)
        if self.budget is None or ratio is None or series.name not in self.held:
            return None
        return ratio <= self.budget


@dataclass(frozen=True, slots=True)
class Count:
    """Something counted rather than timed, and what it has to be."""

    title: str
    found: int
    expected: int


@dataclass(frozen=True, slots=True)
class Report:
    benchmark: str
    comparisons: tuple[Comparison, ...]
    counts: tuple[Count, ...] = ()
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Every budget and every count."""
        budgets = (comparison.within(series) for comparison in self.comparisons for series in comparison.series)
        return all(verdict is not False for verdict in budgets) and all(c.found == c.expected for c in self.counts)


def compare(
    title: str,
    peers: Sequence[Peer],
    *,
    rounds: int,
    unit: str = "s",
    baseline: str | None = None,
    budget: float | None = None,
    held: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Interleaved: what disturbs the machine for a while disturbs all peers."""
    values: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            figure = peer.measure()
            values[peer.name].append(figure)
            progress(f"{title}, round {number + 1} of {rounds}: {peer.name} {figure:.3f} {unit}")
    series = tuple(Series(peer.name, tuple(values[peer.name])) for peer in peers)
    return Comparison(title, unit, series, baseline, budget, held)


def machine() -> dict[str, str]:
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def as_json(report: Report) -> dict[str, Any]:
    document = asdict(report)
    for comparison, shown in zip(report.comparisons, document["comparisons"], strict=True):
        for series, figures in zip(comparison.series, shown["series"], strict=True):
            figures |= {
                "median": series.median,
                "ratio": comparison.ratio(series),
                "within_budget": comparison.within(series),
            }
    return document | {"kept": report.kept}


def from_json(document: dict[str, Any]) -> Report:
    comparisons = (
        Comparison(
            **{key: shown[key] for key in ("title", "unit", "baseline", "budget", "paired")},
            series=tuple(Series(figures["name"], tuple(figures["values"])) for figures in shown["series"]),
            held=tuple(shown["held"]),
        )
        for shown in document["comparisons"]
    )
    counts = tuple(Count(**count) for count in document["counts"])
    return Report(document["benchmark"], tuple(comparisons), counts, document["machine"])


def show(report: Report, console: Console) -> None:
    parts: list[RenderableType] = [_comparison_table(comparison) for comparison in report.comparisons]
    if report.counts:
        parts.append(_count_table(report.counts))
    where = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    console.print(Group(Text(f"{report.benchmark} ({where})", style="bold"), *parts))


def _comparison_table(comparison: Comparison) -> Table:
    table = Table(title=comparison.title, title_justify="left")
    table.add_column("peer")
    for heading in (f"median {comparison.unit}", "least", "most", f"to {comparison.baseline}", "budget"):
        table.add_column(heading, justify="right")
    for series in comparison.series:
        ratio, verdict = comparison.ratio(series), comparison.within(series)
        table.add_row(
            series.name,
            f"{series.median:.3f}",
            f"{min(series.values):.3f}",
            f"{max(series.values):.3f}",
            "" if ratio is None else f"{ratio:.2f}",
            "" if verdict is None else f"{comparison.budget:g} {'kept' if verdict else 'EXCEEDED'}",
        )
    return table


def _count_table(counts: Sequence[Count]) -> Table:
    table = Table(title="counted", title_justify="left")
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_column("has to be", justify="right")
    for count in counts:
        table.add_row(
            count.title, str(count.found), str(count.expected), style=None if count.found == count.expected else "red"
        )
    return table
