"""The 95th percentile of requests that were served under several plans, each with an evaluation of its own. Pure.

The mean of percentiles is not the percentile of all: those of a slow plan are the slowest of all requests. Of each plan
two points of its tail are known, its own 95th percentile and the fraction that is later than the SLA; beyond the first
the latency is taken as log-normal through both. Below it, where hardly anybody has waited, it is spread no more than
service times are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
#: Fractions beyond these say no more than that there are hardly any, or hardly any others.
_LEAST, _MOST = 1e-15, 1.0 - 1e-15
#: Spread of service times, and the bounds of a spread.
_USUAL_SIGMA, _LEAST_SIGMA, _MOST_SIGMA = 0.25, 0.02, 2.0
_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Requests under one plan.

    Attributes:
        requests: How many.
        p95_ms: Their 95th percentile, above 0.
        late_fraction: P(latency > SLA), 0..1.
    """

    requests: int
    p95_ms: float
    late_fraction: float


def p95_of_all(parts: Sequence[Part], sla_ms: float) -> float:
    """Return the latency in ms that 5 % of all requests exceed; of one part its own p95.

    Args:
        parts: At least one, with requests.
        sla_ms: What late is measured against; 0 if that is not known.
    """
    if len(parts) == 1:
        return parts[0].p95_ms
    low, high = min(part.p95_ms for part in parts), max(part.p95_ms for part in parts)
    tails = [(part.requests, math.log(part.p95_ms), _sigma(part, sla_ms)) for part in parts]
    total = sum(part.requests for part in parts)
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        log = math.log(middle)
        beyond = sum(n * _beyond(log - at, sigma) for n, at, sigma in tails)
        low, high = (middle, high) if beyond > 0.05 * total else (low, middle)
    return (low + high) / 2.0


def _beyond(distance: float, sigma: float) -> float:
    """Return the fraction beyond a latency whose logarithm is this far from that of the 95th percentile."""
    spread = sigma if distance > 0.0 else min(sigma, _USUAL_SIGMA)
    return _NORMAL.cdf(-(_Z95 + distance / spread))


def _sigma(part: Part, sla_ms: float) -> float:
    """Return the standard deviation of the logarithm of the latency through the two points."""
    if sla_ms <= 0.0:
        return _USUAL_SIGMA
    steps = -_NORMAL.inv_cdf(min(max(part.late_fraction, _LEAST), _MOST)) - _Z95
    distance = math.log(sla_ms / part.p95_ms)
    sigma = distance / steps if abs(steps) > 0.05 else _USUAL_SIGMA
    return min(max(sigma, _LEAST_SIGMA), _MOST_SIGMA)
