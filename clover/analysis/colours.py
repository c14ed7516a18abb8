"""One colour per variant, the same in the dashboard, in reports and in plots.

The eight colours of Okabe and Ito (Color Universal Design, jfly.uni-koeln.de/color), which all kinds of eyes tell
apart. A variant's colour follows from its place in the catalogue's order (smallest first), not from what serves now.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Blocks of a variant, and text upon them.
PALETTE = (
    ("#56b4e9", "#000000"),
    ("#e69f00", "#000000"),
    ("#009e73", "#000000"),
    ("#cc79a7", "#000000"),
    ("#f0e442", "#000000"),
    ("#0072b2", "#ffffff"),
    ("#d55e00", "#000000"),
    ("#999999", "#000000"),
)
#: What is nobody's: idle, parked, unknown.
NEUTRAL = "#999999"


def variant_order(seen: Sequence[str], known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return variants in the order that fixes their colours: the catalogue's, then others as they appeared."""
    return (*known, *(name for name in seen if name not in known))


def variant_colours(order: Sequence[str], variant: str) -> tuple[str, str]:
    """Return the colour of a variant's blocks and of text upon them, as `#rrggbb`; grey for one that is not listed."""
    return PALETTE[order.index(variant) % len(PALETTE)] if variant in order else PALETTE[-1]


def variant_colour(order: Sequence[str], variant: str) -> str:
    """Return the colour of a variant as `#rrggbb`."""
    return variant_colours(order, variant)[0]
