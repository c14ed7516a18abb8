"""The plans of a run, what was predicted for each, and what these predictions make of the requests that were answered.

What a run saved is its measured footprint against that of a baseline at the same load, which is modelled here: the
energy of each request from the prediction of the plan under which it was answered, idle energy from the plans in force,
both weighted by the grid at the time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from clover.analysis.grid import GridHistory
from clover.bus.messages import Event, PlanData, Prediction
from clover.core.mixture import Part, p95_of_all
from clover.core.units import J_PER_KWH, footprint_g

#: Milliseconds of requests per bucket when dynamic energy is weighted by the grid.
_BUCKET_MS = 1000.0

#: When a run began and ended, ms since the Unix epoch.
Span = tuple[float, float]
Which = Literal["plan", "base", "rightsized"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What was predicted for the targets of one epoch, and for the two baselines at the same load."""

    plan: Prediction
    base: Prediction
    rightsized: Prediction

    def of(self, which: Which) -> Prediction:
        """Return one of them by its name."""
        return getattr(self, which)


class PlanHistory:
    """Folds plans and answers; memory grows with plans and seconds, not with requests.

    Args:
        grid: The carbon intensity meanwhile.
    """

    def __init__(self, grid: GridHistory) -> None:
        self._grid = grid
        self._predictions: dict[int, Predictions] = {}
        self._in_force: list[tuple[float, Predictions]] = []
        self._answered_at: Counter[tuple[int, int]] = Counter()

    # --- folding

    def take(self, event: Event, data: PlanData) -> None:
        """Take in that a plan came into force, or a step towards it."""
        predictions = Predictions(plan=data.prediction, base=data.base, rightsized=data.base_rightsized)
        self._predictions[event.epoch] = predictions
        self._in_force.append((event.at_ms, predictions))

    def answered(self, epoch: int, at_ms: float) -> None:
        """Count a request that was answered under the plan of an epoch."""
        self._answered_at[(epoch, int(at_ms // _BUCKET_MS))] += 1

    # --- figures

    def saved_pct(self, grams: float, against: Which, span: Span | None) -> float | None:
        """Return what a footprint in g saves against a modelled one, in %; None if there is nothing to compare with."""
        other = self._modelled_g(against, span)
        return None if other <= 0.0 else 100.0 * (1.0 - grams / other)

    def base_late_pct(self, span: Span | None) -> float | None:
        """Return how many requests BASE was predicted to answer late during a run, in %, at the worst."""
        if not self._in_force:
            return None
        segments = self._segments(span)
        return max(p.base.late_pct for _, _, p in segments) if segments else self._in_force[-1][1].base.late_pct

    def predicted(self, answered: int, span: Span | None, *, sla_ms: float) -> dict[str, float | None]:
        """Return the figures that were predicted, as means over the answered requests.

        Args:
            answered: How many there were; the idle energy of the run is shared among them.
            span: Of the run.
            sla_ms: Promised p95.
        """
        known = self._answered_with_prediction()
        total = sum(known.values())
        if not total or not answered:
            return dict.fromkeys(("p95_ms", "accuracy_pct", "energy_j_per_request", "saved_pct"))

        def mean(name: str) -> float | None:
            values = [(getattr(self._predictions[epoch].plan, name), n) for epoch, n in known.items()]
            return None if any(v is None for v, _ in values) else sum(v * n for v, n in values) / total

        idle_j = sum(p.plan.idle_power_w * (to_ms - from_ms) / 1e3 for from_ms, to_ms, p in self._segments(span))
        return {
            "p95_ms": self._predicted_p95(known, sla_ms),
            "accuracy_pct": mean("accuracy_pct"),
            "energy_j_per_request": (mean("dynamic_j") or 0.0) + idle_j / answered,
            "saved_pct": self.saved_pct(self._modelled_g("plan", span), "base", span),
        }

    def _answered_with_prediction(self) -> dict[int, int]:
        """Return how many requests were answered in each epoch whose plan is known."""
        per_epoch: Counter[int] = Counter()
        for (epoch, _), n in self._answered_at.items():
            per_epoch[epoch] += n
        return {epoch: n for epoch, n in per_epoch.items() if epoch in self._predictions}

    def _predicted_p95(self, answered: dict[int, int], sla_ms: float) -> float | None:
        plans = [(self._predictions[epoch].plan, n) for epoch, n in answered.items()]
        parts = [
            Part(requests=n, p95_ms=plan.p95_ms, late_fraction=plan.late_pct / 100.0)
            for plan, n in plans
            if plan.p95_ms is not None
        ]
        return p95_of_all(parts, sla_ms) if len(parts) == len(plans) else None

    def _modelled_g(self, which: Which, span: Span | None) -> float:
        """Return the footprint that the answered requests would have by a prediction."""
        dynamic = sum(
            footprint_g(
                n * self._predictions[epoch].of(which).dynamic_j, self._grid.at((bucket + 0.5) * _BUCKET_MS), 1.0
            )
            for (epoch, bucket), n in self._answered_at.items()
            if epoch in self._predictions
        )
        idle = sum(
            predictions.of(which).idle_power_w * self._grid.integral(from_ms, to_ms) / J_PER_KWH
            for from_ms, to_ms, predictions in self._segments(span)
        )
        return dynamic + idle

    def _segments(self, span: Span | None) -> list[tuple[float, float, Predictions]]:
        """Return when which predictions were in force during the run."""
        if span is None:
            return []
        started_ms, ended_ms = span
        ends = [at for at, _ in self._in_force[1:]] + [ended_ms]
        spans = zip(self._in_force, ends, strict=False)
        cut = [(max(at, started_ms), min(end, ended_ms), p) for (at, p), end in spans]
        return [(from_ms, to_ms, p) for from_ms, to_ms, p in cut if to_ms > from_ms]
