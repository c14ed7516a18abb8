"""Prometheus endpoints of the agents: base units, totals that never fall, and no label per request.

A scrape reads what the agent published last, so that it neither waits for the event loop nor disturbs it. The carbon
monitor's totals come from the ledger, whose checkpoint outlives a restart; a node's counters begin at zero with its
boot, as Prometheus expects of counters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clover.bus.messages import IntensityReading, LedgerParts, LedgerReading, NodeTelemetry
from clover.errors import ConfigurationError
from clover.power.ledger import by_cause

Metrics = Callable[[], Iterable[Metric]]


class _Agent(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics()


@contextlib.contextmanager
def metrics_endpoint(port: int | None, metrics: Metrics, *, host: str = "127.0.0.1") -> Iterator[int | None]:
    """Serve metrics at `/metrics` while the block runs; nothing without a port, any free one for port 0.

    Raises:
        ConfigurationError: The port is taken.
    """
    if port is None:
        yield None
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Agent(metrics))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigurationError(f"--metrics-port = {port}: {error.strerror}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def carbon_metrics(
    intensity: IntensityReading | None, ledger: LedgerReading | None, parts: LedgerParts | None, now_ms: float
) -> list[Metric]:
    """Return what the carbon monitor tells: the grid, and the ledger's totals."""
    found: list[Metric] = []
    if intensity is not None:
        found += _grid_metrics(intensity, now_ms)
    if ledger is not None:
        found += _ledger_metrics(ledger, parts)
    return found


def _grid_metrics(reading: IntensityReading, now_ms: float) -> list[Metric]:
    labels = {"zone": reading.zone, "source": reading.source, "kind": reading.kind, "factor": reading.factor}
    value = GaugeMetricFamily(
        "clover_carbon_intensity_grams_per_kwh", "gCO2e per kWh of the grid, without PUE", labels=[*labels, "status"]
    )
    value.add_metric([*labels.values(), reading.status], reading.g_per_kwh)
    gauges = [
        gauge("clover_carbon_intensity_fallback", "1 if the figure is not the live one", bool(reading.fallback_level)),
        gauge("clover_carbon_intensity_fallback_level", "0 live to 4 fixed fallback", reading.fallback_level),
        gauge("clover_carbon_intensity_stale", "1 if it is too old to change a plan", reading.stale),
        gauge("clover_pue_ratio", "Power usage effectiveness applied to all energy", reading.pue),
    ]
    if reading.observed_to_ms is not None:
        age_s = max(0.0, now_ms - reading.observed_to_ms) / 1e3
        gauges.append(gauge("clover_carbon_intensity_age_seconds", "Since the time that the figure describes", age_s))
    return [value, *gauges]


def _ledger_metrics(ledger: LedgerReading, parts: LedgerParts | None) -> list[Metric]:
    energy = CounterMetricFamily(
        "clover_energy_joules", "GPU energy of the deployment by cause", labels=["component", "source"]
    )
    for cause, joules in ledger.by_cause_j.items():
        energy.add_metric([cause, ledger.energy_source], joules)
    grams = CounterMetricFamily(
        "clover_carbon_grams", "gCO2e of the deployment, PUE included", labels=["scope", "component"]
    )
    grams.add_metric(["operational", "gpu"], ledger.footprint_g)
    grams.add_metric(["operational", "host"], ledger.host_g)
    by_variant = CounterMetricFamily(
        "clover_variant_energy_joules", "Energy of requests by the variant that served them", labels=["model"]
    )
    for variant, part in (parts.by_variant if parts is not None else {}).items():
        by_variant.add_metric([variant], part.energy_j)
    return [
        energy,
        grams,
        by_variant,
        counter("clover_host_energy_joules", "Host energy, not part of the GPUs'", ledger.host_j),
        counter("clover_unresolved_energy_joules", "Energy that could not be given a cause", ledger.unresolved_j),
        counter("clover_requests_answered", "Answered requests that the energy belongs to", float(ledger.answered)),
    ]


def node_metrics(telemetry: NodeTelemetry | None) -> list[Metric]:
    """Return what a node tells of its GPUs since its boot."""
    if telemetry is None:
        return []
    energy = CounterMetricFamily(
        "clover_node_energy_joules",
        "Energy of a GPU by cause since the node's boot",
        labels=["node", "device", "uuid", "component", "state", "source"],
    )
    requests = CounterMetricFamily(
        "clover_node_requests_answered", "Answered requests since the node's boot", labels=["node", "device", "model"]
    )
    for gpu in telemetry.gpus:
        device = str(gpu.index)
        for cause, joules in by_cause(gpu.energy).items():
            state = "dynamic" if cause == "requests" else "idle"
            energy.add_metric([telemetry.node, device, gpu.uuid, cause, state, telemetry.energy_source], joules)
        for variant, number in gpu.energy.answered.items():
            requests.add_metric([telemetry.node, device, variant], number)
    found: list[Metric] = [
        energy,
        requests,
        gauge("clover_node_boot_time_seconds", "When the counters began at zero", telemetry.booted_at_ms / 1e3),
        gauge("clover_node_requests_in_flight", "Requests being worked on", telemetry.in_flight),
        counter("clover_node_mig_changes", "GPU instances created plus destroyed", telemetry.mig_changes),
    ]
    if telemetry.host_j is not None:
        host = CounterMetricFamily("clover_node_host_energy_joules", "Host energy since boot", labels=["source"])
        host.add_metric([telemetry.host_source], telemetry.host_j)
        found.append(host)
    return found


def gauge(name: str, about: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, about, value=float(value))


def counter(name: str, about: str, value: float) -> Metric:
    """Return a counter without labels; its samples are called `<name>_total`."""
    return CounterMetricFamily(name, about, value=float(value))
