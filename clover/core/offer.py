"""How many new requests a node can begin now, and of which accuracy tiers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clover.core.tiers import ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a node asks for.

    Attributes:
        count: Most requests in all.
        tiers: For each tier (from 2) that could be answered: most requests of it and of stricter ones together.
    """

    count: int
    tiers: Mapping[int, int] = field(default_factory=dict[int, int])


def make_offer(idle_pct: Iterable[float], tiers: Sequence[float], in_hand: Iterable[float | None] = ()) -> Offer:
    """Return what could begin on idle instances beside the requests that are in hand already.

    Args:
        idle_pct: Accuracy of each idle instance that may take a request, in any order.
        tiers: Accuracies of the tiers, ascending (`clover.core.tiers.accuracy_tiers`).
        in_hand: Least accuracy that each request in hand asks for, None for any. One that no idle instance can
            answer takes the place of no other.
    """
    free = sorted(idle_pct)
    for least in sorted(in_hand, key=lambda asked: -1.0 if asked is None else asked, reverse=True):
        able = next((accuracy for accuracy in free if least is None or accuracy >= least), None)
        if able is not None:
            free.remove(able)
    able_to = {tier: sum(one >= accuracy for one in free) for tier, accuracy in enumerate(tiers, start=ANY)}
    return Offer(count=len(free), tiers={tier: count for tier, count in able_to.items() if tier > ANY and count})
