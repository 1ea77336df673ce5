"""What `status` says, as Prometheus reads it. Labels are configured names only, so that series outlive addresses."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STATUSES = ("up", "down", "unknown", "draining", "disabled")
_COUNTED = (
    ("connections", "connections", "Connections given to the server."),
    ("bytes_in", "received_bytes", "Bytes from clients."),
    ("bytes_out", "sent_bytes", "Bytes to clients, where they pass this director."),
    ("packets_in", "received_packets", "Packets from clients."),
    ("packets_out", "sent_packets", "Packets to clients, where they pass this director."),
)
_NOW = (
    ("active_connections", "active_connections", "Established connections."),
    ("inactive_connections", "inactive_connections", "Connections that open, close or are without state."),
    ("effective_weight", "effective_weight", "Weight in force, in configured units."),
    ("configured_weight", "configured_weight", "Weight as configured or ordered."),
    ("response_time_ms", "response_time_seconds", "Time to the first byte of the last check's answer."),
)


_SERVICE = (
    ("quorum", "Whether the service has quorum."),
    ("panic", "Whether so many servers are down that all are kept serving."),
    ("sorry", "Whether the sorry server answers."),
)
_LABELS = ["service", "server"]
_STATUS, _MS = "kernlb_server_status", "response_time_ms"


def exposition(daemon: Mapping[str, Any], services: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Prometheus' text format, in parts, of what `status --json` prints; an empty part after each service."""
    names = {key: f"kernlb_server_{name}" for key, name, _ in (*_COUNTED, *_NOW)}
    lines: dict[str, list[str]] = {key: [] for key in (*names, "status")}
    series = {key: f"{names[key]}_total" for key, _, _ in _COUNTED} | {key: names[key] for key, _, _ in _NOW}
    standing = [GaugeMetricFamily(f"kernlb_service_{key}", text, labels=["service"]) for key, text in _SERVICE]
    for service, shown, servers in _merged(services):
        for family, (key, _) in zip(standing, _SERVICE, strict=True):
            family.add_metric([service], float(shown[key]))
        of_service = f'service="{_escaped(service)}"'
        for server, row in servers.items():
            labels = f'{{server="{_escaped(server)}",{of_service}'
            for key, name in series.items():
                if (value := row[key]) is not None:
                    lines[key].append(f"{name}{labels}}} {value / 1000 if key == _MS else float(value)!r}\n")
            lines["status"] += [
                f'{_STATUS}{labels},status="{each}"}} {float(row["status"] == each)}\n' for each in STATUSES
            ]
        yield b""
    yield _written(*_daemon(daemon))
    # The library takes ten times as long for a line, and there are fifteen for each of ten thousand servers.
    for key, _, text in _COUNTED:
        yield _written(CounterMetricFamily(names[key], text, labels=_LABELS)) + "".join(lines[key]).encode()
    for key, _, text in _NOW:
        yield _written(GaugeMetricFamily(names[key], text, labels=_LABELS)) + "".join(lines[key]).encode()
    one = GaugeMetricFamily(_STATUS, "1 for the status a server has.", labels=[*_LABELS, "status"])
    yield _written(one) + "".join(lines["status"]).encode()
    yield _written(*standing)


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _written(*families: Metric) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    text: bytes = generate_latest(registry)
    return text


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _merged(
    services: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, dict[str, Any]]]]:
    """One entry a configured service: the counters of its binds, which stand together, are added; whatever else is the
    same in all."""
    adding = [key for key, _, _ in _COUNTED] + ["active_connections", "inactive_connections"]
    for name, binds in groupby(services, key=lambda service: str(service["name"])):
        head, *others = binds
        servers = {row["name"]: row for row in head["servers"]}
        for row in (row for other in others for row in other["servers"]):
            before = servers.get(row["name"])
            added = {} if before is None else {key: _added(before[key], row[key]) for key in adding}
            servers[row["name"]] = row if before is None else before | added
        yield name, head, servers


def _added(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _daemon(daemon: Mapping[str, Any]) -> Iterator[Metric]:
    checks = daemon["checks"]
    yield GaugeMetricFamily("kernlb_start_time_seconds", "When the daemon started.", value=daemon["since"])
    reconciled = float(daemon["reconciled"])
    yield GaugeMetricFamily("kernlb_reconciled", "Whether the kernel is as wanted.", value=reconciled)
    yield CounterMetricFamily("kernlb_writes", "Operations written to the kernel.", value=daemon["writes"])
    yield CounterMetricFamily(
        "kernlb_drift_repaired", "Of these, repairs of what others changed.", value=daemon["drift_repaired"]
    )
    yield GaugeMetricFamily("kernlb_check_targets", "Targets that are probed.", value=checks["probed"])
    yield GaugeMetricFamily("kernlb_check_shared", "Probes a round that sharing targets saves.", value=checks["saved"])
    yield CounterMetricFamily("kernlb_checks", "Probes started.", value=checks["started"])
    outcomes = CounterMetricFamily("kernlb_check_verdicts", "Probes by what they found.", labels=["outcome"])
    for outcome, count in sorted(checks["outcomes"].items()):
        outcomes.add_metric([outcome], count)
    yield outcomes
    late = GaugeMetricFamily("kernlb_check_lateness_seconds", "How late probes start.", labels=["quantile"])
    late.add_metric(["0.5"], checks["lateness_p50_ms"] / 1000)
    late.add_metric(["0.99"], checks["lateness_p99_ms"] / 1000)
    yield late
