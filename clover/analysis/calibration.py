"""Refits the tables of one GPU model to its measured points, and says how well they predict a load they did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clover.analysis.energy_fit import EnergyFit, fit_energy
from clover.analysis.replay import Replay, replay
from clover.analysis.time_fit import TimeFit, fit_times
from clover.core.application import ServiceModel
from clover.core.measured import LeftOut, MeasuredPoint, Measurements

#: Draws of the service times, and their seed; `clover validate` uses other ones.
FIT_SEEDS = 100
FIT_SEED = 20_231_112


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The result.

    Attributes:
        models: Refitted, by application.
        times: By application.
        energy: Fitted together over all applications.
        energy_at_given_idle: The same with the idle power held.
        left_out: One for each point.
    """

    models: Mapping[str, ServiceModel]
    times: Mapping[str, TimeFit]
    energy: EnergyFit
    energy_at_given_idle: EnergyFit
    left_out: tuple[LeftOut, ...]


def calibrate(
    models: Mapping[str, ServiceModel],
    measurements: Measurements,
    *,
    given_idle_w: float,
    hold_idle: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Fit times, then energy at the contention that these give; then again without each load in turn.

    Args:
        models: By application; what is not fitted is taken from them.
        measurements: Points and priors.
        given_idle_w: Idle power of one GPU for the fit that holds it.
        hold_idle: The tables get that fit.
        tell: Is told about progress.
    """
    held = given_idle_w if hold_idle else None
    times, seen = _times(models, measurements, measurements.points, tell)
    energy = fit_energy(measurements.points, seen, measurements.prior, idle_power_w=held)
    given = fit_energy(measurements.points, seen, measurements.prior, idle_power_w=given_idle_w)
    left_out: dict[MeasuredPoint, LeftOut] = {}
    for load in range(max(_loads(measurements.points).values()) + 1):
        tell(f"without load {load}")
        for each in _without(models, measurements, load, held, tell):
            left_out[each.point] = each
    return Calibration(
        models={app: _table(models[app], times[app], energy, measurements) for app in times},
        times=times,
        energy=energy,
        energy_at_given_idle=given,
        left_out=tuple(left_out[point] for point in measurements.points),
    )


def _loads(points: Sequence[MeasuredPoint]) -> dict[MeasuredPoint, int]:
    """Return the number of each point's load among those of its application, the lightest first."""
    gaps = {
        app: sorted({p.interarrival_s for p in points if p.application == app}, reverse=True)
        for app in {p.application for p in points}
    }
    return {point: gaps[point.application].index(point.interarrival_s) for point in points}


def _times(
    models: Mapping[str, ServiceModel],
    measurements: Measurements,
    points: Sequence[MeasuredPoint],
    tell: Callable[[str], None],
) -> tuple[dict[str, TimeFit], list[Replay]]:
    times: dict[str, TimeFit] = {}
    for app, prior in measurements.prior.items():
        tell(app)
        mine = [point for point in points if point.application == app]
        times[app] = fit_times(models[app], mine, prior, seeds=FIT_SEEDS, seed=FIT_SEED, tell=tell)
    return times, [_replay(models, measurements, times, point) for point in points]


def _replay(
    models: Mapping[str, ServiceModel], measurements: Measurements, times: Mapping[str, TimeFit], point: MeasuredPoint
) -> Replay:
    app = point.application
    model = times[app].apply(models[app], measurements.prior[app])
    return replay(model, point, seeds=FIT_SEEDS, seed=FIT_SEED)


def _without(
    models: Mapping[str, ServiceModel],
    measurements: Measurements,
    load: int,
    held: float | None,
    tell: Callable[[str], None],
) -> list[LeftOut]:
    loads = _loads(measurements.points)
    kept = [point for point in measurements.points if loads[point] != load]
    times, seen = _times(models, measurements, kept, tell)
    energy = fit_energy(kept, seen, measurements.prior, idle_power_w=held)
    result: list[LeftOut] = []
    for point in measurements.points:
        if loads[point] == load:
            found = _replay(models, measurements, times, point)
            predicted_j = energy.predict_j(point, found, measurements.prior)
            result.append(
                LeftOut(
                    point=point,
                    p95_error_pct=_error_pct(float(np.median(found.p95_ms)), point.p95_ms),
                    served_rate_error_pct=_error_pct(float(np.median(found.served_rate_rps)), point.served_rate_rps),
                    energy_error_pct=_error_pct(predicted_j, point.energy_j_per_request),
                    accuracy_error_points=float(np.median(found.accuracy_pct)) - point.accuracy_pct,
                )
            )
    return result


def _error_pct(found: float, measured: float) -> float:
    return 100.0 * (found / measured - 1.0)


def _table(model: ServiceModel, times: TimeFit, energy: EnergyFit, measurements: Measurements) -> ServiceModel:
    """Return the model with everything fitted, rounded to what the fit can know."""
    prior = measurements.prior[model.application.name]
    fitted = times.apply(model, prior)
    variants = {
        name: replace(
            performance,
            host_ms=round(performance.host_ms, 1),
            dynamic_energy_j=_three_digits(energy.dynamic_j(model.application.name, name, prior)),
        )
        for name, performance in fitted.table.variants.items()
    }
    table = replace(
        fitted.table,
        idle_power_w=round(energy.idle_power_w, 1),
        host_lognormal_sigma=round(fitted.table.host_lognormal_sigma, 3),
        host_contention=round(fitted.table.host_contention, 3),
        energy_contention=round(energy.contention, 2),
        variants=variants,
    )
    return ServiceModel(application=model.application, table=table)


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
