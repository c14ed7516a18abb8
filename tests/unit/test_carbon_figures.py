"""The SCI score, the metrics, and the status' carbon lines: names, units and sums."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support import a_plan, a_target, intensity, ledger, telemetry

from cli.status_carbon import sci_of
from clover.agents.metrics import carbon_metrics, metrics_endpoint, node_metrics
from clover.agents.plan_metrics import PlanWatch
from clover.agents.producer_metrics import ProducerTally
from clover.bus.memory import MemoryBus
from clover.bus.messages import EnergyCounters, GpuTarget, LedgerParts, Override, Part, RequestRecord
from clover.core.outcome import ProducerOutcome
from clover.core.sci import A100, sci_score
from clover.errors import ConfigurationError


def test_the_score_is_energy_times_intensity_plus_the_time_of_the_hardware() -> None:
    score = sci_score(energy_j=3.6e6, footprint_g=1.5 * 200.0, pue=1.5, gpu_s=10 * 3600.0, requests=1000, embodied=A100)
    assert score is not None
    assert score.energy_kwh_per_request == pytest.approx(1.5 / 1000)
    assert score.intensity_g_per_kwh == pytest.approx(200.0)
    assert score.operational_g_per_request == pytest.approx(score.energy_kwh_per_request * score.intensity_g_per_kwh)
    # About 0.6 g and 7.3 g per A100-hour over five years.
    assert score.embodied_low_g_per_request == pytest.approx(10 * 0.6 / 1000, rel=0.02)
    assert score.embodied_high_g_per_request == pytest.approx(10 * 7.26 / 1000, rel=0.01)
    assert score.score_high_g_per_request == pytest.approx(0.3 + 10 * 7.26 / 1000, rel=0.01)
    without = sci_score(energy_j=1.0, footprint_g=1.0, pue=1.5, gpu_s=1.0, requests=1, embodied=None)
    assert without is not None
    assert (without.embodied_low_g_per_request, without.score_low_g_per_request) == (None, 1.0)
    assert sci_score(energy_j=1.0, footprint_g=1.0, pue=1.5, gpu_s=1.0, requests=0, embodied=A100) is None


def _found(**changes: Any) -> dict[str, Any]:
    reading = msgspec.structs.replace(ledger(3.6e6), gpu_s=3600.0, answered=10)
    told = {"ledger": msgspec.to_builtins(reading), "intensity": msgspec.to_builtins(intensity())}
    return {**told, "nodes": [{"gpu_model": "a100-40gb"}], **changes}


def test_the_band_is_known_for_an_a100_only_and_can_be_given() -> None:
    known = sci_of(_found(), None)
    assert known is not None
    assert "HotCarbon" in known["embodied_source"]
    for found, given in (
        (_found(nodes=[{"gpu_model": "h100-80gb"}]), None),
        (_found(), "none"),
        (_found(nodes=[]), None),
    ):
        score = sci_of(found, given)
        assert score is not None
        assert score["embodied_low_g_per_request"] is None
    own = sci_of(_found(), "100:100:1")
    assert own is not None
    assert own["embodied_low_g_per_request"] == pytest.approx(100e3 / (365.25 * 24) / 10)
    for bad in ("5", "3:2:1", "1:2:0", "a:b:c", "1:2:nan"):
        with pytest.raises(ConfigurationError, match="expected low:high:years"):
            sci_of(_found(), bad)
    assert sci_of(_found(ledger=None), None) is None


class _Told:
    def __init__(self, metrics: Any) -> None:
        self._metrics = metrics

    def collect(self) -> Any:
        return self._metrics


def _text(metrics: Any) -> list[str]:
    registry = CollectorRegistry()
    registry.register(_Told(metrics))  # pyright: ignore[reportArgumentType]
    return generate_latest(registry).decode().splitlines()


def test_metrics_have_base_units_and_totals() -> None:
    live = msgspec.structs.replace(intensity(), observed_to_ms=1000.0, fallback_level=2, stale=True, source="neso")
    parts = LedgerParts(by_variant={"base": Part(energy_j=2.0)})
    lines = _text(carbon_metrics(live, ledger(4.0), parts, 61_000.0))
    assert (
        'clover_carbon_intensity_grams_per_kwh{factor="lifecycle",kind="average",source="neso",status="trace",'
        'zone="US-CAL-CISO"} 250.0'
    ) in lines
    for line in (
        'clover_energy_joules_total{component="idle",source="simulated"} 4.0',
        'clover_carbon_grams_total{component="gpu",scope="operational"} 0.5',
        'clover_variant_energy_joules_total{model="base"} 2.0',
        "clover_carbon_intensity_age_seconds 60.0",
        "clover_carbon_intensity_fallback 1.0",
        "clover_carbon_intensity_stale 1.0",
        "clover_pue_ratio 1.5",
        "clover_unresolved_energy_joules_total 0.0",
    ):
        assert line in lines, line
    assert carbon_metrics(None, None, None, 0.0) == node_metrics(None) == []


def test_a_nodes_metrics_are_per_gpu_and_cause() -> None:
    node = telemetry()
    energy = EnergyCounters(requests_j={"base": 1.5}, idle_j=2.0, answered={"base": 3})
    node = msgspec.structs.replace(
        node, gpus=(msgspec.structs.replace(node.gpus[0], energy=energy),), host_j=9.0, host_source="rapl"
    )
    lines = _text(node_metrics(node))
    device = 'device="0",node="n1",source="simulated"'
    assert f'clover_node_energy_joules_total{{component="requests",{device},state="dynamic",uuid="GPU-1"}} 1.5' in lines
    assert f'clover_node_energy_joules_total{{component="idle",{device},state="idle",uuid="GPU-1"}} 2.0' in lines
    assert 'clover_node_requests_answered_total{device="0",model="base",node="n1"} 3.0' in lines
    assert 'clover_node_host_energy_joules_total{source="rapl"} 9.0' in lines


def _record(outcome: str, latency_ms: float | None, due_ms: float = 0.0) -> RequestRecord:
    answered = latency_ms is not None
    return RequestRecord(
        id="r", due_ms=due_ms, received_ms=1.0, outcome=ProducerOutcome(outcome), latency_ms=latency_ms,
        variant="base" if answered else "", accuracy_pct=80.0 if answered else None, energy_j=3.0 if answered else None,
    )  # fmt: skip


def test_a_producers_metrics_count_every_outcome_once() -> None:
    tally = ProducerTally()
    for record in (_record("ok", 40.0), _record("ok", 400.0), _record("late", 7e4), _record("lost", None)):
        tally.take(record)
    counts = {"sent": 5, "duplicate": 1}
    lines = _text(tally.metrics("albert", counts, outstanding=1, sla_p95_ms=500.0))
    for line in (
        'clover_requests_total{application="albert",model="base",status="ok"} 2.0',
        'clover_requests_total{application="albert",model="",status="lost"} 1.0',
        'clover_request_latency_seconds_bucket{application="albert",le="0.05"} 1.0',
        'clover_request_latency_seconds_bucket{application="albert",le="60.0"} 2.0',
        'clover_request_latency_seconds_count{application="albert"} 3.0',
        'clover_request_energy_joules_sum{model="base"} 9.0',
        'clover_accuracy_ratio{application="albert"} 0.8',
        "clover_requests_sent_total 5.0",
        "clover_requests_outstanding 1.0",
        "clover_late_ratio 0.5",
        "clover_sla_ok 0.0",
    ):
        assert line in lines, line
    for at in range(100):
        tally.take(_record("ok", 40.0, due_ms=100_000.0 + at))
    assert "clover_sla_ok 1.0" in _text(tally.metrics("albert", counts, outstanding=1, sla_p95_ms=500.0))
    assert not [
        line for line in _text(ProducerTally().metrics("a", counts, outstanding=0, sla_p95_ms=None)) if "sla" in line
    ]


def test_a_controllers_metrics_are_those_of_the_plan_in_force() -> None:
    async def look() -> tuple[list[str], list[str]]:
        bus = MemoryBus("d", lambda: 1000.0)
        watch = PlanWatch(bus, "c1")
        await watch.look()
        before = _text(watch.metrics())
        await bus.acquire_lease("c1", ttl_s=10)
        await bus.publish_plan("c1", a_plan(state="serving"), [a_target()])
        await watch.look()
        parked = {"n1": (GpuTarget(index=0, mode="parked"),)}
        await bus.publish_plan("c1", a_plan(decision=2, trigger="load", configuration=parked), [a_target()])
        await bus.set_override(Override(nodes=("n2",)))
        await watch.look()
        return before, _text(watch.metrics())

    before, after = asyncio.run(look())
    assert "clover_controller_acting 0.0" in before
    assert not [line for line in before if line.startswith("clover_plan")]
    for line in (
        "clover_controller_acting 1.0",
        "clover_nodes_by_hand 1.0",
        'clover_plan_info{application="albert",gpu_model="a100-40gb",scheme="clover",trigger="load"} 1.0',
        "clover_plan_decisions_total 2.0",
        'clover_reconfigurations_total{reason="load"} 1.0',
        'clover_gpus{mode="parked"} 1.0',
        "clover_plan_in_force 0.0",
        "clover_queue_depth 0.0",
        "clover_predicted_accuracy_ratio 0.8",
    ):
        assert line in after, line
    assert not [line for line in after if line.startswith("clover_predicted_p95")]


def test_a_taken_port_is_said_and_no_port_serves_nothing() -> None:
    with metrics_endpoint(None, list) as nothing:
        assert nothing is None
    with metrics_endpoint(0, list) as port:
        assert port
        with pytest.raises(ConfigurationError, match=f"--metrics-port = {port}"), metrics_endpoint(port, list):
            pass
