"""What `status` says, as Prometheus reads it. Labels are configured names only, so that series outlive addresses."""

from collections.abc import Iterable, Iterator, Mapping
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


def exposition(status: Mapping[str, Any]) -> bytes:
    """Prometheus' text format, of the document that `status --json` prints."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot([*_daemon(status["daemon"]), *_services(status["services"])]))
    text: bytes = generate_latest(registry)
    return text


class _Snapshot(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _services(services: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    listed = list(_merged(services))
    labels = ["service", "server"]
    for key, name, text in _COUNTED:
        counter = CounterMetricFamily(f"kernlb_server_{name}", text, labels=labels)
        for service, _, servers in listed:
            for server, row in servers.items():
                if row[key] is not None:
                    counter.add_metric([service, server], row[key])
        yield counter
    for key, name, text in _NOW:
        gauge = GaugeMetricFamily(f"kernlb_server_{name}", text, labels=labels)
        for service, _, servers in listed:
            for server, row in servers.items():
                if row[key] is not None:
                    gauge.add_metric([service, server], row[key] / 1000 if key.endswith("_ms") else row[key])
        yield gauge
    state = GaugeMetricFamily("kernlb_server_status", "1 for the status a server has.", labels=[*labels, "status"])
    for service, _, servers in listed:
        for server, row in servers.items():
            for each in STATUSES:
                state.add_metric([service, server, each], float(row["status"] == each))
    yield state
    for key, text in (
        ("quorum", "Whether the service has quorum."),
        ("panic", "Whether so many servers are down that all are kept serving."),
        ("sorry", "Whether the sorry server answers."),
    ):
        gauge = GaugeMetricFamily(f"kernlb_service_{key}", text, labels=["service"])
        for service, shown, _ in listed:
            gauge.add_metric([service], float(shown[key]))
        yield gauge


def _merged(
    services: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, dict[str, Any]]]]:
    """One entry a configured service: the counters of its binds are added, whatever else is the same in all."""
    heads: dict[str, Mapping[str, Any]] = {}
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    adding = [key for key, _, _ in _COUNTED] + ["active_connections", "inactive_connections"]
    for service in services:
        heads.setdefault(service["name"], service)
        servers = rows.setdefault(service["name"], {})
        for row in service["servers"]:
            before = servers.get(row["name"])
            if before is None:
                servers[row["name"]] = dict(row)
                continue
            for key in adding:
                one, other = before[key], row[key]
                before[key] = other if one is None else one if other is None else one + other
    for name, head in heads.items():
        yield name, head, rows[name]


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
