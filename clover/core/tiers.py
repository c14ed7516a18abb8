"""Accuracy tiers: requests that ask for at least some accuracy wait apart from those that take any answer. Pure.

A tier is a variant's accuracy. Tier 1 is the least accurate variant's: whatever asks for no more than that takes any
answer. A request for at least `a` belongs to the lowest tier whose accuracy is `a` or more, and any variant of that
accuracy or more may answer it, so that a plan holds a tier if it holds that tier's variant or a better one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

#: Most tiers of an application; with more variants the less accurate ones share a tier, which asks for more than they
#: give and never for less.
MAX_TIERS = 8

#: The tier of requests that any variant may answer.
ANY = 1


def accuracy_tiers(accuracies_pct: Iterable[float]) -> tuple[float, ...]:
    """Return the tiers' accuracies, ascending, in the application's metric; the first is tier 1.

    Args:
        accuracies_pct: Of all variants of the application, in any order.
    """
    distinct = sorted(set(accuracies_pct))
    if len(distinct) <= MAX_TIERS:
        return tuple(distinct)
    return (distinct[0], *distinct[1 - MAX_TIERS :])


def tier_of(tiers: tuple[float, ...], min_accuracy_pct: float | None) -> int | None:
    """Return the tier (from 1) of a request, None if no variant is as accurate as it asks."""
    if min_accuracy_pct is None:
        return ANY
    tier = bisect_left(tiers, min_accuracy_pct) + 1
    return tier if tier <= len(tiers) else None
