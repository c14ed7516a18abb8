"""How sure a quantile or a share of requests is: order statistics and the binomial distribution. Pure.

The number of n samples at or below the true q-quantile is binomial (n, q), whatever they are distributed like, so two
order statistics enclose the quantile (David, Nagaraja: Order Statistics, 3rd ed., section 7.1). Shares have the
interval of Clopper and Pearson (1934).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

#: Two-sided confidence of intervals that are printed.
CONFIDENCE = 0.95


def quantile_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Return ranks (from 1) of the two samples that enclose the q-quantile; None if n is too small for that.

    Args:
        n: Number of samples.
        q: Which quantile, between 0 and 1.
        confidence: At least so sure.
    """
    tail = (1.0 - confidence) / 2.0
    low = binomial_quantile(n, q, tail)
    high = binomial_quantile(n, q, 1.0 - tail) + 1
    return (low, high) if low >= 1 and high <= n else None


def least_samples(q: float, confidence: float = CONFIDENCE) -> int:
    """Return how many samples it takes at least for an interval around the q-quantile."""
    tail = (1.0 - confidence) / 2.0
    return math.ceil(max(math.log(tail) / math.log(q), math.log(tail) / math.log(1.0 - q)))


def binomial_quantile(n: int, p: float, probability: float) -> int:
    """Return the smallest k with P(X <= k) >= probability for X binomial (n, p)."""
    mean, sigma = n * p, math.sqrt(n * p * (1.0 - p))
    # Outside of ten standard deviations (and of small numbers) there is nothing that a double could tell.
    k = max(0, math.floor(mean - 10.0 * sigma - 40.0))
    term = math.exp(_log_pmf(n, p, k))
    reached = term
    while reached < probability and k < n:
        term *= (n - k) / (k + 1) * p / (1.0 - p)
        k += 1
        reached += term
    return k


def _log_pmf(n: int, p: float, k: int) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


def binomial_cdf(n: int, p: float, k: int) -> float:
    """Return P(X <= k) for X binomial (n, p)."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    first = max(0, math.floor(min(n * p, k) - 10.0 * math.sqrt(n * p * (1.0 - p)) - 40.0))
    term = math.exp(_log_pmf(n, p, first))
    total = term
    for i in range(first, k):
        term *= (n - i) / (i + 1) * p / (1.0 - p)
        total += term
    return min(1.0, total)


def share_bounds(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Return one-sided bounds of a share, each at this confidence: k of n samples had the property."""
    if n == 0:
        return 0.0, 1.0
    tail = 1.0 - confidence
    lower = 0.0 if k == 0 else _solve(lambda p: 1.0 - binomial_cdf(n, p, k - 1) > tail)
    upper = 1.0 if k == n else _solve(lambda p: binomial_cdf(n, p, k) < tail)
    return lower, upper


def _solve(beyond: Callable[[float], bool]) -> float:
    """Return where a condition that holds from some share on begins to hold."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if beyond(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2.0


def mlperf_samples(quantile: float, confidence: float = 0.99) -> int:
    """Return how many samples MLPerf Inference asks for to judge a tail latency.

    n = z^2 q (1 - q) / ((1 - q) / 20)^2 with the two-sided normal z of the confidence: 23,886 for p90, 50,425 for p95,
    262,742 for p99 (MLPerf Inference rules, Appendix "Early stopping" and section on the Server scenario).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    margin = (1.0 - quantile) / 20.0
    return round(z * z * quantile * (1.0 - quantile) / (margin * margin))
