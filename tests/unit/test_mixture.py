"""The percentile of requests under several plans."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from clover.core.mixture import Part, p95_of_all


def _part(requests: int, median_ms: float, sigma: float, sla_ms: float) -> Part:
    normal = NormalDist()
    return Part(
        requests=requests,
        p95_ms=median_ms * math.exp(sigma * normal.inv_cdf(0.95)),
        late_fraction=1.0 - normal.cdf(math.log(sla_ms / median_ms) / sigma),
    )


def test_of_one_plan_it_is_its_own() -> None:
    assert p95_of_all([Part(requests=7, p95_ms=80.0, late_fraction=0.001)], 120.0) == 80.0
    two = [Part(requests=n, p95_ms=80.0, late_fraction=0.001) for n in (3, 9)]
    assert p95_of_all(two, 0.0) == pytest.approx(80.0)


@pytest.mark.parametrize("slow", [5, 20, 50, 95])
@pytest.mark.parametrize("sla_ms", [60.0, 75.0, 200.0])
def test_of_several_it_is_that_of_all_their_requests(slow: int, sla_ms: float) -> None:
    parts = [_part(100 - slow, 35.0, 0.2, sla_ms), _part(slow, 60.0, 0.25, sla_ms)]
    rng = np.random.default_rng(1)
    drawn = [
        median * np.exp(sigma * rng.standard_normal(2_000 * n))
        for n, median, sigma in ((100 - slow, 35.0, 0.2), (slow, 60.0, 0.25))
    ]
    assert p95_of_all(parts, sla_ms) == pytest.approx(np.quantile(np.concatenate(drawn), 0.95), rel=0.02)


@pytest.mark.parametrize("late", [0.0, 0.05, 1.0])
def test_extremes_give_a_figure_between_the_parts(late: float) -> None:
    parts = [Part(requests=1, p95_ms=50.0, late_fraction=late), Part(requests=1, p95_ms=100.0, late_fraction=late)]
    assert 50.0 < p95_of_all(parts, 70.0) <= 100.0
