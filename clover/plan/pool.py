"""Many fleets evaluated by the closed form under longest-idle dispatch, from which plans are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats, OperatingPoints, mean_accuracy_pct, mean_dynamic_j
from clover.core.configuration import OFF, PARKED, GpuConfiguration, InstanceKind
from clover.core.objective import PLANNED_LATE_LIMIT
from clover.core.queueing import FleetSearch
from clover.plan.points import Layout, layout_of
from clover.plan.space import FleetSpace, count_matrix, kinds_of, mixed_fleets

#: Bisections for the highest load, to 0.1 %.
_RATE_STEPS = 12
_ROWS = 4_096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Fleets that keep the promise by the closed form.

    Attributes:
        accuracy_pct: Per fleet, (C,).
        energy_j: Per request of the whole fleet, (C,).
        layout: Returns the layout of a fleet by its row.
    """

    accuracy_pct: Floats
    energy_j: Floats
    layout: Callable[[int], Layout]

    def __len__(self) -> int:
        return len(self.energy_j)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fleets:
    """Fleets that nobody has evaluated yet.

    Attributes:
        counts: Instances by kind of the enumeration, (C, K).
        idle_w: Power without any request, (C,).
        layout: Returns the layout of a fleet by its row.
    """

    counts: Floats
    idle_w: Floats
    layout: Callable[[int], Layout]


class Enumeration:
    """The small spaces of one application, board and SLA; built once, evaluated for every load.

    Args:
        model: Application and table.
        gpu_configurations: Of one serving GPU.
        sla_ms: Promised 95th percentile.
    """

    def __init__(self, model: ServiceModel, gpu_configurations: Sequence[GpuConfiguration], sla_ms: float) -> None:
        self._model = model
        self._gpus = tuple(gpu for gpu in gpu_configurations if gpu.mode == "serving")
        self._kinds: tuple[InstanceKind, ...] = kinds_of(self._gpus)
        self._single = count_matrix(self._gpus, self._kinds)
        self._search = FleetSearch(model, self._kinds, sla_ms)
        self._mixed: dict[int, FleetSpace] = {}

    def mixed(self, active: int, spare: int, rate_rps: float, *, off: bool = False) -> Pool:
        """Return the fleets of some GPUs that differ from each other, the others spare."""
        return self.evaluated(self.mixed_fleets(active, spare, off=off), rate_rps)

    def evaluated(self, fleets: Fleets, rate_rps: float) -> Pool:
        """Return those of some fleets that keep the promise at a load."""
        return self._pool(fleets.counts, fleets.idle_w, rate_rps, fleets.layout)

    def mixed_fleets(self, active: int, spare: int, *, off: bool = False) -> Fleets:
        """Return the fleets of some GPUs that differ from each other, not evaluated."""
        if active not in self._mixed:
            self._mixed[active] = mixed_fleets(self._gpus, active)
        space = self._mixed[active]
        return Fleets(
            counts=space.counts,
            idle_w=np.full(len(space), self._idle_power_w(active, spare, off=off)),
            layout=lambda row: self._layout(space.members_of(row), spare, off),
        )

    def two_kinds_of_gpus(self, active: Sequence[int], gpus: int, *, off: bool = False) -> Fleets:
        """Return fleets of two GPU configurations, each of one variant throughout, in every proportion."""
        plain = [n for n, gpu in enumerate(self._gpus) if len({kind.variant for kind in gpu.instances}) == 1]
        splits = [(a, n - a) for n in active for a in range(1, n)]
        rows = [(p, q, a, b) for p in plain for q in plain if p < q for a, b in splits]
        first, second, a, b = np.array(rows, dtype=np.intp).reshape(-1, 4).T
        idle = np.array([self._idle_power_w(n, gpus - n, off=off) for n in range(gpus + 1)])

        def layout(row: int) -> Layout:
            n, m = int(a[row]), int(b[row])
            members = [self._gpus[int(first[row])]] * n + [self._gpus[int(second[row])]] * m
            return self._layout(members, gpus - n - m, off)

        return Fleets(
            counts=self._single[first] * a[:, None] + self._single[second] * b[:, None],
            idle_w=idle[a + b],
            layout=layout,
        )

    def neighbours(self, layout: Layout, *, off: bool = False, resize: bool = True) -> Fleets:
        """Return the fleets that differ from one in one GPU: otherwise configured, or (`resize`) spare or woken."""
        members = [self._gpus.index(gpu) for gpu, n in layout if gpu.mode == "serving" for _ in range(n)]
        spare = sum(n for gpu, n in layout if gpu.mode != "serving")
        left = [(*members[:place], *members[place + 1 :]) for place in range(len(members))]
        stay = [(kept, spare) for kept in dict.fromkeys(left)]
        every = list(range(len(self._gpus)))
        rows = [((*kept, gpu), n) for kept, n in stay for gpu in every]
        if resize and spare:
            rows += [((*members, gpu), spare - 1) for gpu in every]
        if resize and len(members) > 1:
            rows += [(kept, n + 1) for kept, n in stay]
        return Fleets(
            counts=np.array([self._single[list(gpus)].sum(axis=0) for gpus, _ in rows]),
            idle_w=np.array([self._idle_power_w(len(gpus), n, off=off) for gpus, n in rows]),
            layout=lambda row: self._layout([self._gpus[gpu] for gpu in rows[row][0]], rows[row][1], off),
        )

    @property
    def search(self) -> FleetSearch:
        """The closed form for these kinds."""
        return self._search

    def uniform(
        self, active: Sequence[int], gpus: int, rate_rps: float, *, off: bool = False, all_rows: bool = False
    ) -> Pool:
        """Return the fleets whose serving GPUs are all alike, for several numbers of them.

        With `all_rows` those that do not keep the promise are there too, with nan as accuracy and energy.
        """
        numbers = np.repeat(np.array(active), len(self._gpus))
        counts = np.tile(self._single, (len(active), 1)) * numbers[:, None]
        idle = np.array([self._idle_power_w(int(n), gpus - int(n), off=off) for n in active])

        def layout(row: int) -> Layout:
            n = int(numbers[row])
            return self._layout([self._gpus[row % len(self._gpus)]] * n, gpus - n, off)

        return self._pool(counts, np.repeat(idle, len(self._gpus)), rate_rps, layout, all_rows=all_rows)

    def least_late(self, gpus: int, rate_rps: float) -> tuple[GpuConfiguration, float]:
        """Return the configuration for all GPUs with the smallest P(late), and that; the most capable if overloaded."""
        counts = self._single * gpus
        result = self._search.evaluate(counts, rate_rps)
        order = np.lexsort((-result.served_rate_rps, result.late_fraction))
        best = int(order[0])
        return self._gpus[best], float(result.late_fraction[best])

    def highest_rate(self, gpus: int) -> float:
        """Return the highest load in requests/s that some configuration for all GPUs carries within the SLA, or 0."""
        counts = self._single * gpus
        low, high = 0.0, self._search.operating(counts, 1e9).served_rps.max()
        for _ in range(_RATE_STEPS):
            middle = (low + high) / 2.0
            good = (self._search.evaluate(counts, middle).late_fraction <= PLANNED_LATE_LIMIT).any()
            low, high = (middle, high) if good else (low, middle)
        return low if low > 1e-3 * high else 0.0

    def _pool(
        self,
        counts: Floats,
        idle_w: Floats,
        rate_rps: float,
        layout: Callable[[int], Layout],
        *,
        all_rows: bool = False,
    ) -> Pool:
        if all_rows:
            every = self._search.evaluate(counts, rate_rps)
            bad = every.late_fraction > PLANNED_LATE_LIMIT
            return Pool(
                accuracy_pct=np.where(bad, np.nan, every.accuracy_pct),
                energy_j=np.where(bad, np.nan, every.energy_j_per_request(idle_w)),
                layout=layout,
            )
        # In pieces that the processor's cache holds.
        parts = [self._good(counts[i : i + _ROWS], rate_rps) for i in range(0, len(counts), _ROWS)]
        kept = np.concatenate([rows + i * _ROWS for i, (rows, _, _) in enumerate(parts)])
        accuracy: Floats = np.concatenate([found for _, found, _ in parts])
        dynamic: Floats = np.concatenate([found for _, _, found in parts])
        # What keeps the promise is not overloaded: it serves what arrives.
        energy = dynamic + idle_w[kept] / rate_rps
        return Pool(accuracy_pct=accuracy, energy_j=energy, layout=lambda row: layout(int(kept[row])))

    def _good(self, counts: Floats, rate_rps: float) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Return the rows that keep the promise, their accuracy in per cent and their dynamic energy in J."""
        able = np.flatnonzero(self._search.capacity_rps(counts) > rate_rps)
        points = self._search.operating(counts[able], rate_rps)
        # Waiting, which costs most to work out, is not needed where service alone is too long.
        served = (points.shares * self._search.late_service(points.rho)).sum(axis=1)
        rows = np.flatnonzero((served <= PLANNED_LATE_LIMIT) & ~points.overloaded)
        likely = OperatingPoints(
            counts=points.counts[rows],
            rate_rps=points.rate_rps[rows],
            rho=points.rho[rows],
            rates=points.rates[rows],
            overloaded=points.overloaded[rows],
        )
        good = self._search.late_fraction(likely) <= PLANNED_LATE_LIMIT
        accuracy, dynamic = mean_accuracy_pct(self._search.arrays, likely), mean_dynamic_j(self._search.arrays, likely)
        return able[rows[good]], accuracy[good], dynamic[good]

    def _idle_power_w(self, active: int, spare: int, *, off: bool) -> float:
        table = self._model.table
        return active * table.idle_power_w + spare * (table.off_power_w if off else table.parked_power_w)

    def _layout(self, gpus: Sequence[GpuConfiguration], spare: int, off: bool) -> Layout:
        return layout_of([*gpus, *([OFF if off else PARKED] * spare)])
