"""Forecasts of carbon intensity from its own past, and how wrong a forecast was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

DAY_S = 86_400.0

Basis = Literal["published", "yesterday", "trace"]
"""What a forecast rests on: the source's own, the same hour of the day before, or the rows that a replay will show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastError:
    """How far forecasts were from what came.

    Attributes:
        pairs: How many were compared.
        mean_absolute_g_per_kwh: Mean of |actual - forecast|.
        of_mean_pct: The same as part of the mean actual value.
        mean_absolute_pct: Mean of |actual - forecast| / actual (MAPE), over actual values above zero.
    """

    pairs: int
    mean_absolute_g_per_kwh: float
    of_mean_pct: float
    mean_absolute_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One interval of a forecast, gCO2e per kWh; `low` to `high` held 80 % of past actual values, None if unknown."""

    from_s: float
    g_per_kwh: float
    low_g_per_kwh: float | None = None
    high_g_per_kwh: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is expected of the grid from now on.

    Attributes:
        basis: What it rests on.
        source: Whose figures these are.
        issued_s: When the source issued it; None for what does not age.
        intervals: Next first, each `step_s` long.
        step_s: In seconds.
    """

    basis: Basis
    source: str
    issued_s: float | None
    intervals: tuple[Predicted, ...]
    step_s: float


def with_band(expected: Sequence[tuple[float, float]], pairs: Sequence[tuple[float, float]]) -> tuple[Predicted, ...]:
    """Return intervals with a band as wide as the same kind of forecast needed in the past.

    Args:
        expected: Beginning of each interval (s) and its gCO2e per kWh.
        pairs: Past (actual, forecast); fewer than 10 give no band.
    """
    low, high = _band(pairs)
    return tuple(
        Predicted(
            from_s=from_s,
            g_per_kwh=value,
            low_g_per_kwh=None if low is None else value * low,
            high_g_per_kwh=None if high is None else value * high,
        )
        for from_s, value in expected
    )


def forecast_error(pairs: Sequence[tuple[float, float]]) -> ForecastError | None:
    """Compare (actual, forecast) pairs; None if there are none or all actual values are zero."""
    actual = [a for a, _ in pairs]
    if not any(actual):
        return None
    off = [abs(a - f) for a, f in pairs]
    relative = [abs(a - f) / a for a, f in pairs if a > 0.0]
    mean_off = sum(off) / len(off)
    return ForecastError(
        pairs=len(pairs),
        mean_absolute_g_per_kwh=mean_off,
        of_mean_pct=100.0 * mean_off / (sum(actual) / len(actual)),
        mean_absolute_pct=100.0 * sum(relative) / len(relative),
    )


def persistence_pairs(values: Mapping[float, float]) -> list[tuple[float, float]]:
    """Return (actual, value at the same hour of the day before) for every moment that has both.

    Args:
        values: gCO2e per kWh by the second at which the interval begins.
    """
    return [(value, values[at - DAY_S]) for at, value in sorted(values.items()) if at - DAY_S in values]


def persistence(values: Mapping[float, float], *, from_s: float, step_s: float, steps: int) -> list[Predicted]:
    """Predict that each interval is as it was at the same hour of the newest day that is known.

    The band is the 10th and 90th percentile of actual / predicted in the given past, which needs 10 pairs.

    Args:
        values: gCO2e per kWh by the second at which the interval began.
        from_s: Beginning of the first predicted interval.
        step_s: Length of an interval.
        steps: How many.
    """
    found: list[tuple[float, float]] = []
    for step in range(steps):
        at_s = from_s + step * step_s
        before = next((values[at_s - day * DAY_S] for day in range(1, 9) if at_s - day * DAY_S in values), None)
        if before is not None:
            found.append((at_s, before))
    return list(with_band(found, persistence_pairs(values)))


def _band(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    ratios = sorted(actual / predicted for actual, predicted in pairs if predicted > 0.0)
    if len(ratios) < 10:
        return None, None
    return ratios[int(0.1 * (len(ratios) - 1))], ratios[int(0.9 * (len(ratios) - 1) + 0.999)]
