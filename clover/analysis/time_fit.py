"""Fits the host part of the service times of one application to measured latencies.

Unknown are the mean host time of the small and of the largest variant, its spread and its growth with contention; the
part on the instance keeps its modelled value. Errors count against the spread over service seeds (at least 2 %), and
every parameter against 10 % (contention: 50 %) around where it started: six points do not carry four free parameters.
Damped Gauss-Newton on medians over common random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clover.analysis.replay import Replay, replay
from clover.core.application import ServiceModel
from clover.core.closed_form import Floats
from clover.core.measured import MeasuredPoint, Prior

_LEAST_SPREAD = 0.02
_PRIOR = np.array([0.1, 0.1, 0.1, 0.5])
_STEP = 0.02
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeFit:
    """Changes of the four parameters against the prior: host of the small and of the largest variant, sigma, kappa."""

    small: float = 1.0
    largest: float = 1.0
    sigma: float = 1.0
    kappa: float = 1.0

    def apply(self, model: ServiceModel, prior: Prior) -> ServiceModel:
        """Return the model with the prior's host times, changed like this; its energy stays."""
        variants = {
            name: replace(performance, host_ms=prior.variants[name].host_ms * self.host_factor(name, prior))
            for name, performance in model.table.variants.items()
        }
        table = replace(
            model.table,
            host_lognormal_sigma=prior.host_lognormal_sigma * self.sigma,
            host_contention=prior.host_contention * self.kappa,
            variants=variants,
        )
        return ServiceModel(application=model.application, table=table)

    def host_factor(self, variant: str, prior: Prior) -> float:
        """Return the change of a variant's host time: in between by the pixels it decodes, else that of the small."""
        if prior.relative_work(variant) == 1.0:
            return self.largest
        pixels = {name: each.input_px**2 for name, each in prior.variants.items()}
        span = max(pixels.values()) - min(pixels.values())
        part = (pixels[variant] - min(pixels.values())) / span if span else 0.0
        return self.small + part * (self.largest - self.small)


def fit_times(
    model: ServiceModel,
    points: Sequence[MeasuredPoint],
    prior: Prior,
    *,
    seeds: int,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> TimeFit:
    """Fit to points of the model's application.

    Args:
        model: For all that is not fitted.
        points: What was measured.
        prior: Where the parameters start.
        seeds: How many draws of the service times.
        seed: From which they derive.
        tell: Is told the cost after each round.
    """
    start = TimeFit().apply(model, prior)
    spread = [_spread(replay(start, point, seeds=seeds, seed=seed), point) for point in points]

    def residuals(change: Floats) -> Floats:
        candidate = _fit(change).apply(model, prior)
        errors = [
            _errors(replay(candidate, point, seeds=seeds, seed=seed), point) / scale
            for point, scale in zip(points, spread, strict=True)
        ]
        return np.concatenate([*errors, change / _PRIOR])

    change, damping = np.zeros(4), 1e-2
    value = residuals(change)
    for _ in range(_ROUNDS):
        slopes = np.stack([(residuals(change + step) - value) / _STEP for step in np.eye(4) * _STEP], axis=1)
        normal = slopes.T @ slopes
        wanted = change - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slopes.T @ value)
        wanted = np.clip(wanted, -0.5, 0.5)
        tried = residuals(wanted)
        if tried @ tried < value @ value:
            change, value, damping = wanted, tried, damping / 4.0
        else:
            damping *= 8.0
        tell(f"cost {value @ value:.2f} at {np.round(1.0 + change, 4).tolist()}")
    return _fit(change)


def _fit(change: Floats) -> TimeFit:
    small, largest, sigma, kappa = (1.0 + change).tolist()
    return TimeFit(small=small, largest=largest, sigma=sigma, kappa=kappa)


def _errors(seen: Replay, point: MeasuredPoint) -> Floats:
    p95 = float(np.median(seen.p95_ms)) / point.p95_ms - 1.0
    if not point.saturated:
        return np.array([p95])
    return np.array([p95, float(np.median(seen.served_rate_rps)) / point.served_rate_rps - 1.0])


def _spread(seen: Replay, point: MeasuredPoint) -> Floats:
    figures = [seen.p95_ms, seen.served_rate_rps] if point.saturated else [seen.p95_ms]
    return np.array([max(_LEAST_SPREAD, float(each.std() / np.median(each))) for each in figures])
