"""A day's load on a fleet that parks what it does not need: the real agents in virtual time, hour by hour.

The load is 62.5 x (0.55 + 0.45 sin(2 pi (h - phase) / 24)) requests/s at hour h of the trace, on ten simulated A100s
that serve albert. A run is compared with its twin that never parks. Everything here is simulated: times, energy and
the cost of changes come from the performance table.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.bus.messages import Event, IntensityReading, Message, RequestLog
from clover.catalog import load_service, load_trace
from clover.core.arrivals import RateProfile
from clover.core.intensity_trace import IntensityTrace
from clover.core.outcome import ProducerOutcome
from clover.core.units import footprint_g
from clover.plan.certify import student_t_quantile
from clover.sim.clock import run_virtual
from clover.sim.world import World, WorldSettings

PEAK_RPS = 62.5
PUE = 1.5
#: A GPU that is woken is charged this long of active idle on top of what its change is metered with.
WAKE_CHARGE_S = 60.0
#: Parts of the load's hour, and batches of an hour's verdict on the SLA.
_PARTS, _BATCHES = 60, 20
_HOUR_S = 3600.0
_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class DiurnalSettings:
    """One run.

    Attributes:
        from_h, hours: Which part of the 48 hours.
        phase_h: Hour of the trace at which the load rises through its mean.
        parking: `parked` or, for the twin, `none`.
        reserve: Serving GPUs beyond those that the load needs.
        scheme: Planning scheme.
        trace: Name of the grid's trace.
        telemetry_s: Telemetry interval.
        seed: Of everything random.
    """

    from_h: float = 0.0
    hours: float = 48.0
    phase_h: float = 9.0
    parking: str = "parked"
    reserve: int = 0
    scheme: str = "exact"
    trace: str = "ciso-march"
    telemetry_s: float = 5.0
    seed: int = 1


def rate_rps(hour: float, phase_h: float) -> float:
    """Return the load at an hour of the trace, in requests/s."""
    return PEAK_RPS * (0.55 + 0.45 * math.sin(2.0 * math.pi * (hour - phase_h) / 24.0))


def load_of(settings: DiurnalSettings) -> RateProfile:
    """Return the load of a run, constant within each minute."""
    parts = math.ceil(settings.hours * _PARTS)
    step_s = _HOUR_S / _PARTS
    rates = tuple(rate_rps(settings.from_h + (part + 0.5) / _PARTS, settings.phase_h) for part in range(parts))
    return RateProfile(tuple(part * step_s for part in range(parts)), rates, parts * step_s, repeats=False)


def trace_of(settings: DiurnalSettings) -> IntensityTrace:
    """Return the grid from the run's first hour on, in rows of a quarter of an hour."""
    trace = load_trace(settings.trace)
    rows = range(math.ceil(settings.hours * 4) + 4)
    values = tuple(
        trace.values_g_per_kwh[int((settings.from_h + row / 4) / trace.step_h) % len(trace.values_g_per_kwh)]
        for row in rows
    )
    return dataclasses.replace(
        trace, values_g_per_kwh=values, step_h=0.25, forecasts_g_per_kwh=(), statuses=(), started_at=""
    )


class _Hours:
    """Counts what ends late in each batch of each hour, and wakes with the intensity at which they happen."""

    def __init__(self) -> None:
        self._began_ms: float | None = None
        self._sent: Counter[int] = Counter()
        self._late: Counter[int] = Counter()
        self._g_per_kwh = 0.0
        self._parked: set[str] = set()
        self.wakes_g_per_kwh: list[float] = []

    def take(self, message: Message) -> None:
        """Take in what the bus carries."""
        match message:
            case IntensityReading():
                self._g_per_kwh = message.g_per_kwh
            case Event(kind="generator.started"):
                self._began_ms = message.at_ms
            case Event(kind="gpu.parked"):
                self._parked.add(message.subject)
            case Event(kind="gpu.serving") if message.subject in self._parked:
                self._parked.discard(message.subject)
                self.wakes_g_per_kwh.append(self._g_per_kwh)
            case RequestLog():
                self._take_requests(message)
            case _:
                pass

    def _take_requests(self, log: RequestLog) -> None:
        batch_ms = _HOUR_S * 1e3 / _BATCHES
        for record in log.records:
            batch = int((record.due_ms - (self._began_ms or record.due_ms)) // batch_ms)
            self._sent[batch] += 1
            self._late[batch] += record.outcome is not ProducerOutcome.OK

    def hours(self) -> list[dict[str, float]]:
        """Return late_pct of each hour with its one-sided 99 % lower bound by batch means."""
        rows: list[dict[str, float]] = []
        for hour in range(max(self._sent, default=-1) // _BATCHES + 1):
            batches = [batch for batch in range(hour * _BATCHES, (hour + 1) * _BATCHES) if self._sent[batch]]
            sent = sum(self._sent[batch] for batch in batches)
            parts = [self._late[batch] / self._sent[batch] for batch in batches]
            late = sum(self._late[batch] for batch in batches) / sent
            rows.append({"sent": sent, "late_pct": 100.0 * late, "late_pct_lower": 100.0 * lower_bound(parts)})
        return rows


def lower_bound(parts: Sequence[float]) -> float:
    """Return the one-sided 99 % lower bound of a mean by batch means; 0 with fewer than two batches."""
    if len(parts) < 2:
        return 0.0
    mean = sum(parts) / len(parts)
    variance = sum((part - mean) ** 2 for part in parts) / (len(parts) - 1)
    return max(0.0, mean - student_t_quantile(_CONFIDENCE, len(parts) - 1) * math.sqrt(variance / len(parts)))


def world_of(settings: DiurnalSettings) -> WorldSettings:
    """Return the deployment of a run: ten GPUs on two nodes, parked ones at 25 W, lambda 0.1."""
    model = load_service("albert", "a100-40gb")
    model = dataclasses.replace(model, table=dataclasses.replace(model.table, parked_power_w=25.0))
    goals = Goals(
        lambda_=0.1,
        sla_ms=model.table.sla_p95_ms,
        parking="parked" if settings.parking == "parked" else "none",
        reserve=settings.reserve,
    )
    return WorldSettings(
        fleet=make_fleet(backend="sim", board="a100-40gb", model=model),
        gpus=(5, 5),
        scheme=settings.scheme,
        goals=goals,
        trace=trace_of(settings),
        hour_s=_HOUR_S,
        rate_rps=rate_rps(settings.from_h, settings.phase_h),
        duration_s=settings.hours * _HOUR_S,
        pue=PUE,
        telemetry_s=settings.telemetry_s,
        seed=settings.seed,
        load=load_of(settings),
    )


def run_diurnal(settings: DiurnalSettings, *, watch: Callable[[Message], None] | None = None) -> dict[str, Any]:
    """Simulate a run; the same settings give the same figures, and `watch` is given the same messages."""
    wanted = world_of(settings)
    hours = _Hours()

    async def main() -> dict[str, Any]:
        world = World(wanted)
        world.watchers += [hours.take, *([watch] if watch is not None else [])]
        return await world.run()

    result = run_virtual(main())
    idle_w = wanted.fleet.model.table.idle_power_w
    charged_g = sum(footprint_g(WAKE_CHARGE_S * idle_w, grams, PUE) for grams in hours.wakes_g_per_kwh)
    return {
        **dataclasses.asdict(settings),
        "requests": result["requests"],
        "late_pct": result["late_pct"],
        "p95_ms": result["p95_ms"],
        "sla_p95_ms": result["sla_p95_ms"],
        "accuracy_pct": result["accuracy_pct"],
        "footprint_g": result["footprint_g"] + charged_g,
        "wakes": len(hours.wakes_g_per_kwh),
        "wake_charge_g": charged_g,
        "replans": result["replans"],
        "reconfigurations": result["reconfigurations"],
        "mig_changes": result["mig_changes"],
        "change_s_total": result["change_s_total"],
        "by_hour": hours.hours(),
    }


def compared(parked: dict[str, Any], twin: dict[str, Any]) -> dict[str, Any]:
    """Return what parking gave against the twin, and whether each promise was kept."""
    worst = max((hour["late_pct_lower"] for hour in parked["by_hour"]), default=0.0)
    saved = 100.0 * (1.0 - parked["footprint_g"] / twin["footprint_g"])
    loss = twin["accuracy_pct"] - parked["accuracy_pct"]
    return {
        "saved_pct": saved,
        "accuracy_lost_points": loss,
        "worst_hour_late_pct_lower": worst,
        "lost_none": parked["requests"]["lost"] == 0,
        "late_kept": parked["late_pct"] <= 5.0 and worst <= 5.0,
        "saved_enough": saved >= 12.0,
        "accuracy_kept": loss <= 0.15,
    }
