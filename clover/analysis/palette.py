"""One look per variant, everywhere: dashboard, reports, pictures. Colours of Okabe and Ito, told apart by all kinds of
eyes; where there are no colours (grey print), hatches and lines tell variants apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """How a variant is drawn: `colour` of its area, `ink` of text on it, `hatch` and `line` in matplotlib's words."""

    colour: str
    ink: str
    hatch: str
    line: str


#: In the order of variants; what has no place in the order has the last look.
LOOKS = (
    Look("#56b4e9", "#000000", "", "-"),
    Look("#e69f00", "#000000", "////", "--"),
    Look("#009e73", "#000000", "....", "-."),
    Look("#cc79a7", "#000000", "xxxx", ":"),
    Look("#f0e442", "#000000", "\\\\\\\\", "-"),
    Look("#0072b2", "#ffffff", "oo", "--"),
    Look("#d55e00", "#000000", "++", "-."),
    Look("#999999", "#000000", "--", ":"),
)


def order_of(known: Sequence[str], seen: Iterable[str]) -> tuple[str, ...]:
    """Return variants in the order that fixes their looks: the catalogue's, then others as they appeared."""
    return (*known, *(name for name in dict.fromkeys(seen) if name not in known))


def look_of(order: Sequence[str], variant: str) -> Look:
    """Return how a variant is drawn."""
    return LOOKS[order.index(variant) % len(LOOKS)] if variant in order else LOOKS[-1]
