"""The partition codes 0 to 18 of the original Clover (SC'23), kept so that its results can be compared.

A code is a list of sizes in the order in which the original created them; it says nothing about places. The
19 codes mean only 14 different multisets. They exist for boards with 7 compute slices; an A30 has none.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from mig.errors import PartitionRejectedError
from mig.placement import PlacedProfile, place, unfit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mig.profiles import GpuModel

# Compute sevenths as the original lists them, in its order of creation; the index is the code.
_SEVENTHS: tuple[tuple[int, ...], ...] = (
    (7,),
    (3, 4),
    (2, 1, 4),
    (1, 1, 1, 4),
    (3, 3),
    (2, 1, 3),
    (1, 1, 1, 3),
    (3, 2, 2),
    (3, 2, 1, 1),
    (3, 1, 1, 2),
    (3, 1, 1, 1, 1),
    (2, 1, 2, 2),
    (2, 1, 2, 1, 1),
    (2, 1, 1, 1, 2),
    (1, 1, 1, 2, 1, 1),
    (1, 1, 1, 1, 1, 2),
    (2, 1, 1, 1, 1, 1),
    (1, 2, 1, 1, 1, 1),
    (1, 1, 1, 1, 1, 1, 1),
)

CODES: tuple[tuple[str, ...], ...] = tuple(tuple(f"{sevenths}g" for sevenths in code) for code in _SEVENTHS)
"""Sizes of each code in the order of creation; the index is the code."""


def _first_with_same_sizes(code: int) -> int:
    return next(first for first in range(code + 1) if sorted(CODES[first]) == sorted(CODES[code]))


DUPLICATES: Mapping[int, int] = MappingProxyType(
    {code: first for code in range(len(CODES)) if (first := _first_with_same_sizes(code)) != code}
)
"""Codes that mean the same as an earlier one, with that one. The original skips only 9, 15, 16 and 17."""


def multiset_of_code(model: GpuModel, code: int) -> tuple[str, ...]:
    """Translate a code to its multiset: sizes, largest first.

    Raises:
        PartitionRejectedError: There is no such code, or the board has no codes.
    """
    return tuple(sorted(_sizes(model, code), key=lambda size: model.profile(size).rank))


def codes_of_multiset(model: GpuModel, multiset: Sequence[str]) -> tuple[int, ...]:
    """List the codes that mean a multiset, ascending; none for a board without codes."""
    if not has_codes(model):
        return ()
    wanted = sorted(multiset)
    return tuple(code for code, sizes in enumerate(CODES) if sorted(sizes) == wanted)


def layout_of_code(model: GpuModel, code: int) -> tuple[PlacedProfile, ...]:
    """Create the sizes of a code in its order, each at the highest free start; ordered by start.

    This is the one reading of the codes under which all 19 can be created. It gives 18 different layouts.

    Raises:
        PartitionRejectedError: There is no such code, or the board has no codes.
    """
    placed: list[PlacedProfile] = []
    for size in _sizes(model, code):
        profile = model.profile(size)
        choices = (place(profile, start) for start in reversed(profile.starts))
        placed.append(next(each for each in choices if not unfit(each.profile, each.placement, placed)))
    return tuple(sorted(placed, key=lambda each: each.placement.start))


def has_codes(model: GpuModel) -> bool:
    """Whether the codes mean anything on this board."""
    return model.compute_slices == 7


def _sizes(model: GpuModel, code: int) -> tuple[str, ...]:
    if not has_codes(model):
        raise PartitionRejectedError(
            f"code {code} on {model.name}: expected a board with 7 compute slices, this one has {model.compute_slices}",
            hint="Name the sizes instead, such as " + "+".join(p.size for p in model.basic_profiles[-2:]) + ".",
        )
    if not 0 <= code < len(CODES):
        raise PartitionRejectedError(
            f"code {code}: expected 0 to {len(CODES) - 1}",
            hint="`clover mig partitions` lists the codes and what they mean.",
        )
    return CODES[code]
