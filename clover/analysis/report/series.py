"""What a report shows of one run, over time: everything in bins of one axis that begins with the first due request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clover.analysis.load import Run
from clover.analysis.logs.frames import polars
from clover.core.units import J_PER_KWH
from clover.errors import ConfigurationError

Numbers = NDArray[np.float64]

#: Widths of a bin in s, and about how many there shall be.
_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
_BINS = 120
#: A p95 of fewer requests says nothing.
LEAST_SAMPLES = 20
#: Bins are wide enough for so many requests on average, as long as a run has so many bins.
_WANTED_SAMPLES, _FEWEST_BINS = 50, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The time axis: when the run began and ended, and its bins.

    Attributes:
        start_ms, end_ms: Wall time.
        edges_ms: Bounds of bins, one more than there are bins.
    """

    start_ms: float
    end_ms: float
    edges_ms: Numbers

    @property
    def bins(self) -> int:
        """How many there are."""
        return len(self.edges_ms) - 1

    @property
    def width_s(self) -> float:
        """Width of a bin."""
        return float(self.edges_ms[1] - self.edges_ms[0]) / 1e3

    @property
    def known_ms(self) -> Numbers:
        """Bounds of bins as far as the run goes: the last bin ends with it."""
        return np.minimum(self.edges_ms, self.end_ms)

    @property
    def middles_s(self) -> Numbers:
        """Middle of each bin, in s since the start."""
        return (self.edges_ms[:-1] + self.edges_ms[1:] - 2.0 * self.start_ms) / 2e3

    @property
    def edges_s(self) -> Numbers:
        """Bounds of bins, in s since the start."""
        return (self.edges_ms - self.start_ms) / 1e3

    def bin_of(self, at_ms: Any) -> NDArray[np.intp]:
        """Return the bin of each moment; what is outside goes to the first or last."""
        found = np.searchsorted(self.edges_ms, np.asarray(at_ms, dtype=np.float64), side="right") - 1
        return np.clip(found, 0, self.bins - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests of each bin, by when they ended (or were due, if nothing came).

    Attributes:
        count, answered: Of each bin.
        p95_ms, p99_ms: NaN where there are too few; infinite where too many were not answered.
        accuracy_pct: Mean over the answered; NaN where there is none.
        variants: Answers by variant.
    """

    count: Numbers
    answered: Numbers
    p95_ms: Numbers
    p99_ms: Numbers
    accuracy_pct: Numbers
    variants: dict[str, Numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carbon:
    """The grid and what was emitted.

    Attributes:
        intensity: gCO2e/kWh in the middle of each bin.
        effective: Mean of intensity x PUE over each bin.
        uncertain: Whether the figure of a bin is a forecast, an estimate or stale.
        used_g, used_j: By the ledger, at each edge, since the start.
        base_g, rightsized_g: Modelled for the same answers and grid, at each edge; None if no plan was heard of.
    """

    intensity: Numbers
    effective: Numbers
    uncertain: NDArray[np.bool_]
    used_g: Numbers
    used_j: Numbers
    base_g: Numbers | None
    rightsized_g: Numbers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Slices of GPUs in the middle of each bin by what they are: sizes of instances, `unallocated`, `parked`..."""

    slices: dict[str, Numbers]
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One decision, and from when to when its targets were being carried out (None: nothing changed)."""

    at_s: float
    trigger: str
    reason: str
    decision: int
    rolled_s: tuple[float, float] | None
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Everything over time."""

    axis: Axis
    requests: Requests
    carbon: Carbon | None
    fleet: Fleet | None
    changes: list[Change]
    notes: list[str] = field(default_factory=list[str])


def _width_s(length_s: float, requests: int) -> int:
    """Return the width of bins: about `_BINS` of them, fewer if they would hold too few requests for a percentile."""
    bins = min(_BINS, max(_FEWEST_BINS, requests / _WANTED_SAMPLES))
    return next((width for width in _WIDTHS_S if length_s / width <= bins), _WIDTHS_S[-1])


def axis_of(run: Run) -> Axis:
    """Return the axis of a run: from the first generator's start to the end of its last request.

    Raises:
        ConfigurationError: No request has ended in it.
    """
    pl = polars()
    requests = run.frame("requests")
    if requests.is_empty():
        raise ConfigurationError(
            f"run {run.folder}: no request has ended in it, there is nothing to report",
            hint="`clover logs tail` shows what comes in.",
        )
    events = run.frame("events")
    # An archive that begins midway may still tell of generators that had begun before it.
    heard_ms = run.frame("power")["at_ms"].min() or 0.0
    began = events.filter(pl.col("kind") == "generator.started", pl.col("at_ms") >= heard_ms)["at_ms"].min()
    ended = events.filter(pl.col("kind") == "generator.finished")["at_ms"].max()
    first_ms = requests["due_ms"].min()
    last_ms = requests.select(pl.max_horizontal("due_ms", "received_ms").max()).item()
    start_ms = first_ms if began is None else min(began, first_ms)
    end_ms = max(last_ms, ended or last_ms, start_ms + 1e3)
    width_ms = 1e3 * _width_s((end_ms - start_ms) / 1e3, len(requests))
    count = max(1, int(np.ceil((end_ms - start_ms) / width_ms)))
    return Axis(start_ms=start_ms, end_ms=end_ms, edges_ms=start_ms + width_ms * np.arange(count + 1))


def requests_of(run: Run, axis: Axis) -> Requests:
    """Return the requests in bins."""
    pl = polars()
    frame = run.frame("requests")
    ended = frame.select(pl.coalesce("received_ms", "due_ms"))["received_ms"].to_numpy()
    infinite = pl.col("latency_ms").fill_null(float("inf"))
    answered = pl.col("outcome").is_in(["ok", "late"])
    binned = frame.with_columns(bin=pl.Series(axis.bin_of(ended)))
    grouped = binned.group_by("bin").agg(
        pl.len().alias("count"),
        answered.sum().alias("answered"),
        infinite.quantile(0.95, "higher").alias("p95"),
        infinite.quantile(0.99, "higher").alias("p99"),
        pl.col("accuracy_pct").filter(answered).mean().alias("accuracy"),
    )
    place = grouped["bin"].to_numpy()

    def spread(name: str, fill: float) -> Numbers:
        values = np.full(axis.bins, fill)
        values[place] = grouped[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return values

    count = spread("count", 0.0)
    return Requests(
        count=count,
        answered=spread("answered", 0.0),
        p95_ms=np.where(count >= LEAST_SAMPLES, spread("p95", np.nan), np.nan),
        p99_ms=np.where(count >= 5 * LEAST_SAMPLES, spread("p99", np.nan), np.nan),
        accuracy_pct=spread("accuracy", np.nan),
        variants=_by_variant(binned.filter(answered), axis),
    )


def _by_variant(answered: Any, axis: Axis) -> dict[str, Numbers]:
    pl = polars()
    found: dict[str, Numbers] = {}
    for variant, place, count in answered.group_by("variant", "bin").agg(pl.len()).sort("variant").iter_rows():
        found.setdefault(variant, np.zeros(axis.bins))[place] = count
    return found


class Steps:
    """A value that holds from one moment to the next; before the first, the first one's."""

    def __init__(self, at_ms: Any, values: Any) -> None:
        order = np.argsort(np.asarray(at_ms, dtype=np.float64), kind="stable")
        self._at = np.asarray(at_ms, dtype=np.float64)[order]
        self._values = np.asarray(values, dtype=np.float64)[order]
        lengths = np.diff(self._at)
        self._sums = np.concatenate([[0.0], np.cumsum(self._values[:-1] * lengths)])

    def at(self, moments_ms: Numbers) -> Numbers:
        """Return the value at each moment."""
        return self._values[np.clip(np.searchsorted(self._at, moments_ms, side="right") - 1, 0, None)]

    def sums(self, moments_ms: Numbers) -> Numbers:
        """Return the integral up to each moment, in value x s; only differences mean something."""
        place = np.clip(np.searchsorted(self._at, moments_ms, side="right") - 1, 0, None)
        return (self._sums[place] + self._values[place] * (moments_ms - self._at[place])) / 1e3


def carbon_of(run: Run, axis: Axis, requests: Requests) -> Carbon | None:
    """Return grid and footprint over time; None if there is no intensity or no ledger."""
    pl = polars()
    grid, ledger = run.frame("intensity"), run.frame("ledger").sort("at_ms")
    if grid.is_empty() or ledger.height < 2:
        return None
    middles = axis.start_ms + 1e3 * axis.middles_s
    effective = Steps(grid["from_ms"], grid["g_per_kwh"] * grid["pue"])
    sums = effective.sums(axis.edges_ms)
    doubtful = grid.select(pl.col("stale") | ~pl.col("status").is_in(["measured", "trace", "assumed"]))["stale"]
    base, rightsized = _modelled(run, axis, requests, effective)

    def used(name: str) -> Numbers:
        total = np.interp(axis.known_ms, ledger["at_ms"].to_numpy(), ledger[name].to_numpy())
        return total - total[0]

    return Carbon(
        intensity=Steps(grid["from_ms"], grid["g_per_kwh"]).at(middles),
        effective=np.diff(sums) / axis.width_s,
        uncertain=Steps(grid["from_ms"], doubtful.cast(pl.Float64)).at(middles) > 0,
        used_g=used("footprint_g"),
        used_j=used("energy_j"),
        base_g=base,
        rightsized_g=rightsized,
    )


def _modelled(run: Run, axis: Axis, requests: Requests, grid: Steps) -> tuple[Numbers | None, Numbers | None]:
    """Return the footprint that the answers would have had by each baseline, at each edge since the start.

    Idle power runs all the time, dynamic energy comes with each answer, at the grid's figure of its bin; which
    prediction holds follows the plans in force.
    """
    plans = run.frame("plans").sort("at_ms")
    if plans.is_empty():
        return None, None
    seconds = axis.width_s
    edges = axis.known_ms
    sums = np.diff(grid.sums(edges))
    mean = np.divide(sums, np.diff(edges) / 1e3, out=np.zeros_like(sums), where=np.diff(edges) > 0)
    middles = axis.edges_ms[:-1] + 500.0 * seconds
    found: list[Numbers] = []
    for which in ("base", "rightsized"):
        dynamic_j = Steps(plans["at_ms"], plans[f"{which}_dynamic_j"]).at(middles)
        idle_w = Steps(plans["at_ms"], plans[f"{which}_idle_power_w"]).at(middles)
        grams = (requests.answered * dynamic_j * mean + idle_w * sums) / J_PER_KWH
        found.append(np.concatenate([[0.0], np.cumsum(grams)]))
    return found[0], found[1]
