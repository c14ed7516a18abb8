"""The fleet as a flow model: how many GPUs are cut how, how many instances of each kind, and how much each serves.

A mixed-integer linear program, solved with HiGHS. Variables: GPUs per partition (whole), parked GPUs (whole), instances
per kind (whole), requests/s per kind. Everything that contention changes is taken at one end of an interval of rho, so
that the optimum bounds from above what any routing that does not look at a request's size can reach with a contention
in that interval, waiting left out: service times and lateness at the interval's low end, dynamic energy at its high
end. Busy instances (requests/s x service time) tie the interval to the flows: rho is the mean busy fraction of the
live instances of the whole fleet, as in the closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import (
    Floats,
    KindArrays,
    OperatingPoints,
    latency_quantile,
    latency_tail,
    service_tail,
    waiting,
)
from clover.core.configuration import FleetCounts, InstanceKind
from clover.core.objective import LATE_LIMIT
from clover.core.queueing import Evaluation
from clover.plan.asking import Asked
from clover.plan.program import Relaxed, Rows, solve_whole

#: A flow below this part of the load is nothing.
_LEAST_SHARE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Contention from `low` to `high`."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low

    def halves(self) -> tuple[Interval, Interval]:
        """Cut it in the middle."""
        middle = (self.low + self.high) / 2.0
        return Interval(low=self.low, high=middle), Interval(low=middle, high=self.high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlowSolution:
    """What one program found.

    Attributes:
        bound: No answer with a contention in the interval scores higher.
        found: Whether there is a solution; if not, HiGHS gave up, only the bound counts, and the rest is nothing.
        gpus: GPUs per partition, in the order of the model's multisets; rounded if they need not be whole.
        spare: GPUs that are parked or off, likewise.
        counts: Instances by kind, (K,).
        flows: Requests/s by kind, (K,).
    """

    bound: float
    found: bool
    gpus: NDArray[np.intp]
    spare: int
    counts: Floats
    flows: Floats


class FlowModel:
    """The program of one fleet, load and SLA.

    Args:
        model: Application and table.
        multisets: Partitions that the board allows.
        gpus: Number of GPUs.
        rate_rps: Arrival rate.
        sla_ms: Latency beyond which a request is late.
        spare_power_w: Of a GPU that is parked or off; None if all must serve.
        most_active: No more GPUs than this serve; None if all may. To bound what fewer GPUs could do.
    """

    def __init__(
        self,
        model: ServiceModel,
        multisets: Sequence[tuple[str, ...]],
        gpus: int,
        *,
        rate_rps: float,
        sla_ms: float,
        spare_power_w: float | None,
        most_active: int | None = None,
    ) -> None:
        self.model, self.multisets, self.gpus = model, tuple(multisets), gpus
        self.rate_rps, self.sla_ms = rate_rps, sla_ms
        self._spare_power_w, self._most_active = spare_power_w, most_active
        self._relaxed: dict[Interval, Relaxed] = {}
        self._late: dict[float, Floats] = {}
        self._sizes = sorted({size for multiset in multisets for size in multiset})
        kinds = [
            InstanceKind(size, variant.name)
            for size in self._sizes
            for variant in model.application.variants
            if model.fits(variant.name, size)
        ]
        self.arrays = KindArrays.of(model, kinds)
        self._of_size = np.array([[kind.profile == size for kind in kinds] for size in self._sizes], dtype=np.float64)

    def late_of_kinds(self, rho: float) -> Floats:
        """Return P(S > SLA) of each kind without waiting, (K,)."""
        if rho not in self._late:
            kinds = len(self.arrays.kinds)
            times = np.full((kinds, 1), self.sla_ms / 1e3)
            self._late[rho] = service_tail(self.arrays, np.arange(kinds), np.full(kinds, rho), times)[:, 0]
        return self._late[rho]

    def solve(
        self,
        asked: Asked,
        interval: Interval,
        *,
        late_limit: float = LATE_LIMIT,
        utilisation: float = 1.0,
        absolute_gap: float = 1e-5,
        cutoff: float = -np.inf,
    ) -> FlowSolution | None:
        """Solve for contention in an interval; None if nothing there keeps the promise, or scores above the cutoff.

        Args:
            asked: What is to be maximised and kept.
            interval: Of contention.
            late_limit: Largest fraction of requests whose service alone is longer than the SLA.
            utilisation: Largest busy fraction of the instances of any kind.
            absolute_gap: HiGHS ends when its bound and its answer are so near; the bound is the one that is returned.
            cutoff: What scores no more need not be found.
        """
        if cutoff > -np.inf:
            # A program in whole numbers takes twenty times as long as one without.
            relaxed = self.relax(asked, interval, late_limit=late_limit, utilisation=utilisation)
            if relaxed is None or relaxed.bound <= cutoff:
                return None
        solved = solve_whole(
            self._program(asked, interval, late_limit, utilisation, relaxed=False),
            absolute_gap=absolute_gap,
            cutoff=cutoff - asked.constant,
        )
        return (
            None if solved is None else self._solution(solved.bound + asked.constant, solved.values, found=solved.found)
        )

    def relax(
        self, asked: Asked, interval: Interval, *, late_limit: float = LATE_LIMIT, utilisation: float = 1.0
    ) -> FlowSolution | None:
        """Solve without whole numbers, which still is a bound; arguments and result as `solve`.

        The program is kept and solved again from where it ended, as long as no accuracy or energy is to be kept.
        """
        solver = None if asked.constrained else self._relaxed.get(interval)
        if solver is None:
            program = self._program(asked, interval, late_limit, utilisation, relaxed=True)
            first, kinds = 1 + len(self._sizes), len(self.arrays.kinds)
            cells = [(first + kind, len(self.multisets) + 1 + kind) for kind in range(kinds)]
            solver = Relaxed(program, cells, first + kinds + 1)
            if not asked.constrained:
                self._relaxed[interval] = solver
        costs, limit = self._costs(asked, interval), late_limit * self.rate_rps
        solved = solver.solve(costs, coefficient=-utilisation, limit=limit)
        if solved is None:
            return None
        return self._solution(solved[0] + asked.constant, solved[1], found=True, whole=False)

    def evaluation(self, solution: FlowSolution, *, with_p95: bool = True) -> Evaluation:
        """Evaluate a solution at its own contention, waiting as if all instances stood in one line (too kind)."""
        arrays, points = self.arrays, self.operating(solution)
        waits, shares, rho = waiting(arrays, points), solution.flows / solution.flows.sum(), float(points.rho[0])
        fleet = self.fleet(solution)
        return Evaluation(
            rate_rps=self.rate_rps,
            served_rate_rps=self.rate_rps,
            utilisation=rho,
            p95_ms=float(latency_quantile(arrays, points, waits, 0.95)[0]) * 1e3 if with_p95 else math.nan,
            late_fraction=float(latency_tail(arrays, points, waits, np.array([self.sla_ms / 1e3]))[0]),
            accuracy_pct=float(shares @ arrays.accuracy_pct),
            dynamic_j=float(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * rho),
            idle_power_w=fleet.active * self.model.table.idle_power_w + solution.spare * (self._spare_power_w or 0.0),
            shares=self.shares(solution),
        )

    def operating(self, solution: FlowSolution) -> OperatingPoints:
        """Return where a solution works, also one that is not in whole numbers; overloaded if a kind is."""
        rates = solution.flows / solution.flows.sum() * self.rate_rps
        rho = self.contention(solution.counts, rates)
        busy = rates * self.arrays.mean_s(np.array([rho]))[0]
        return OperatingPoints(
            counts=solution.counts[None],
            rate_rps=np.array([self.rate_rps]),
            rho=np.array([rho]),
            rates=rates[None],
            overloaded=np.array([rho >= 1.0 or bool((busy > solution.counts + 1e-9).any())]),
        )

    def contention(self, counts: Floats, rates: Floats) -> float:
        """Return rho at its fixed point for given flows; by Little's law it is linear in the flows."""
        growth = float(rates @ (self.arrays.kappa * self.arrays.host_s))
        at_rest = float(rates @ (self.arrays.host_s + self.arrays.gpu_s))
        spare = float(counts.sum()) - growth
        return at_rest / spare if at_rest < spare else 1.0

    def shares(self, solution: FlowSolution) -> dict[InstanceKind, float]:
        """Return the fraction of the requests by kind, for all kinds that have instances."""
        total = solution.flows.sum()
        return {
            kind: float(flow / total)
            for kind, flow, count in zip(self.arrays.kinds, solution.flows, solution.counts, strict=True)
            if count > 0
        }

    def fleet(self, solution: FlowSolution) -> FleetCounts:
        """Return what performance depends on; spare GPUs count as parked."""
        counts = zip(self.arrays.kinds, solution.counts, strict=True)
        return FleetCounts(
            kinds=tuple((kind, int(n)) for kind, n in counts if n),
            active=int(solution.gpus.sum()),
            parked=solution.spare,
        )

    # --- the program

    def _program(
        self, asked: Asked, interval: Interval, late_limit: float, utilisation: float, *, relaxed: bool
    ) -> highspy.HighsLp:
        rows = Rows(partitions=len(self.multisets), kinds=len(self.arrays.kinds))
        self._fill(rows, asked, interval, late_limit, utilisation)
        return rows.program(self._costs(asked, interval), self._spare_limits(), relaxed=relaxed)

    def _costs(self, asked: Asked, interval: Interval) -> Floats:
        energy = self._energy_row(interval)
        partitions, kinds = len(self.multisets), len(self.arrays.kinds)
        accuracy = np.concatenate([np.zeros(partitions + 1 + kinds), self.arrays.accuracy_pct / self.rate_rps])
        return asked.per_accuracy_pct * accuracy - asked.per_energy_j * energy

    def _energy_row(self, interval: Interval) -> Floats:
        """Return J per request as a row: idle watts of the GPUs and the least dynamic energy of the flows."""
        dynamic = self.arrays.dynamic_j * (1.0 - self.arrays.energy_contention * interval.high)
        idle = np.full(len(self.multisets), self.model.table.idle_power_w)
        nothing = np.zeros(len(self.arrays.kinds))
        return np.concatenate([idle, [self._spare_power_w or 0.0], nothing, dynamic]) / self.rate_rps

    def _fill(self, rows: Rows, asked: Asked, interval: Interval, late_limit: float, utilisation: float) -> None:
        arrays, infinite = self.arrays, highspy.kHighsInf
        quickest, slowest = arrays.mean_s(np.array([interval.low, interval.high]))
        ones = np.ones(len(self.multisets))
        rows.add(self.gpus, self.gpus, gpus=ones, spare=1.0)
        for size, of_size in zip(self._sizes, self._of_size, strict=True):
            rows.add(0.0, 0.0, gpus=np.array([float(m.count(size)) for m in self.multisets]), counts=-of_size)
        for kind, quick in enumerate(quickest):
            unit = np.eye(len(arrays.kinds))[kind]
            rows.add(-infinite, 0.0, flows=unit * quick, counts=-utilisation * unit)
        rows.add(self.rate_rps, self.rate_rps, flows=np.ones(len(arrays.kinds)))
        rows.add(-infinite, late_limit * self.rate_rps, flows=self.late_of_kinds(interval.low))
        everyone = np.ones(len(arrays.kinds))
        rows.add(-infinite, 0.0, flows=quickest, counts=-interval.high * everyone)
        rows.add(0.0, infinite, flows=slowest, counts=-interval.low * everyone)
        if asked.least_accuracy_pct is not None:
            rows.add(asked.least_accuracy_pct, infinite, flows=arrays.accuracy_pct / self.rate_rps)
        if asked.most_energy_j is not None:
            rows.add_row(self._energy_row(interval), -infinite, asked.most_energy_j)

    def _spare_limits(self) -> tuple[float, float]:
        if self._spare_power_w is None:
            return 0.0, 0.0
        fewest = 0 if self._most_active is None else self.gpus - self._most_active
        return float(fewest), float(self.gpus - 1)

    def _solution(self, bound: float, values: Floats, *, found: bool, whole: bool = True) -> FlowSolution:
        partitions, kinds = len(self.multisets), len(self.arrays.kinds)
        counts, flows = (
            values[partitions + 1 : partitions + 1 + kinds],
            np.maximum(values[partitions + 1 + kinds :], 0.0),
        )
        return FlowSolution(
            bound=bound,
            found=found,
            gpus=np.rint(values[:partitions]).astype(np.intp),
            spare=round(float(values[partitions])),
            counts=np.rint(counts) if whole else counts,
            flows=np.where(flows < _LEAST_SHARE * self.rate_rps, 0.0, flows),
        )
