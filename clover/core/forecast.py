"""Forecasts of carbon intensity from its own past, and how wrong a forecast was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DAY_S = 86_400.0


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
    low, high = _band(persistence_pairs(values))
    found: list[Predicted] = []
    for step in range(steps):
        at_s = from_s + step * step_s
        before = next((values[at_s - day * DAY_S] for day in range(1, 9) if at_s - day * DAY_S in values), None)
        if before is not None:
            found.append(
                Predicted(
                    from_s=at_s,
                    g_per_kwh=before,
                    low_g_per_kwh=None if low is None else before * low,
                    high_g_per_kwh=None if high is None else before * high,
                )
            )
    return found


def _band(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    ratios = sorted(actual / predicted for actual, predicted in pairs if predicted > 0.0)
    if len(ratios) < 10:
        return None, None
    return ratios[int(0.1 * (len(ratios) - 1))], ratios[int(0.9 * (len(ratios) - 1) + 0.999)]
