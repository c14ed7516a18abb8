"""What one GPU can be cut into: partitions as values, their enumeration and their notation. Pure.

A *layout* is a partition with its positions; its *multiset* forgets them (sizes, largest first). A layout is
*maximal* if nothing fits any more; a multiset is *inclusion-maximal* if no other valid multiset contains it.
Everything is derived from the placements of the board by depth-first search, nothing is listed by hand;
results are kept per board.

By default only the basic profiles count; `all_profiles` adds those with media engines and with double memory.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from mig.codes import multiset_of_code
from mig.errors import PartitionRejectedError
from mig.placement import PlacedProfile, candidates, unfit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mig.profiles import GpuModel

Multiset: TypeAlias = tuple[str, ...]
"""Sizes of the instances of one GPU, largest first, such as ("4g", "2g", "1g"). Empty: no instance at all."""

# A plus sign separates terms only before a digit: in "1g+me" it belongs to the size.
_SEPARATOR = re.compile(r"\s*,\s*|\s*\+\s*(?=\d)|\s+")
_REPEATED = re.compile(r"(?P<before>\d{1,3})[x*](?P<size_after>\d.*)|(?P<size_before>\d+g.*)[x*](?P<after>\d{1,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What one GPU is cut into: a value, equal to any other with the same profiles at the same places.

    Attributes:
        placed: Profiles with their placements, ordered by start whatever order was given.

    Raises:
        ValueError: Two of them overlap, or one profile is there too often.
    """

    placed: tuple[PlacedProfile, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.placed, key=lambda each: each.placement.start))
        for index, each in enumerate(ordered):
            reason = unfit(each.profile, each.placement, ordered[:index])
            if reason:
                raise ValueError(reason)
        object.__setattr__(self, "placed", ordered)

    @property
    def multiset(self) -> Multiset:
        """Its sizes, largest first."""
        profiles = sorted((each.profile for each in self.placed), key=lambda profile: profile.rank)
        return tuple(profile.size for profile in profiles)

    def room(self, model: GpuModel, *, all_profiles: bool = False) -> tuple[PlacedProfile, ...]:
        """List what could still be created, one at a time, without touching what is there."""
        free = set(range(model.memory_slices)).difference(*(each.placement.slices for each in self.placed))
        used = Counter(each.profile.size for each in self.placed)
        return tuple(
            each
            for each in candidates(model, all_profiles=all_profiles)
            if used[each.profile.size] < each.profile.max_count and free.issuperset(each.placement.slices)
        )

    def __str__(self) -> str:
        return " ".join(map(str, self.placed))


@cache
def layouts(model: GpuModel, *, all_profiles: bool = False) -> tuple[Partition, ...]:
    """List every partition of a board with at least one instance."""
    choices = candidates(model, all_profiles=all_profiles)
    limits = {each.profile.size: each.profile.max_count for each in choices}
    return tuple(Partition(placed=placed) for placed in _disjoint(choices, limits) if placed)


@cache
def multisets(model: GpuModel, *, all_profiles: bool = False) -> tuple[Multiset, ...]:
    """List every multiset of a board, those with the largest instances first."""
    return _distinct_multisets(model, layouts(model, all_profiles=all_profiles))


@cache
def maximal_layouts(model: GpuModel, *, all_profiles: bool = False) -> tuple[Partition, ...]:
    """List the layouts in which nothing fits any more."""
    every = layouts(model, all_profiles=all_profiles)
    return tuple(layout for layout in every if not layout.room(model, all_profiles=all_profiles))


@cache
def maximal_multisets(model: GpuModel, *, all_profiles: bool = False) -> tuple[Multiset, ...]:
    """List the multisets of the maximal layouts."""
    return _distinct_multisets(model, maximal_layouts(model, all_profiles=all_profiles))


@cache
def inclusion_maximal_multisets(model: GpuModel, *, all_profiles: bool = False) -> tuple[Multiset, ...]:
    """List the multisets that no other valid multiset contains.

    Fewer than the maximal ones: 3g+2g+1g is maximal with the 3g at slice 0 only, elsewhere another 1g fits.
    """
    counts = {each: Counter(each) for each in multisets(model, all_profiles=all_profiles)}
    return tuple(each for each, count in counts.items() if not any(count < other for other in counts.values()))


def layouts_of(model: GpuModel, multiset: Sequence[str]) -> tuple[Partition, ...]:
    """List the layouts of a multiset, those that leave the most choices for further instances first.

    Args:
        model: The board.
        multiset: Sizes or profile names in any order; none gives the empty layout.

    Raises:
        PartitionRejectedError: The board has no such profile or cannot hold them all.
    """
    return _layouts_of(model, canonical_multiset(model, multiset))


def canonical_multiset(model: GpuModel, sizes: Iterable[str]) -> Multiset:
    """Bring sizes or profile names to the canonical form: sizes, largest first.

    Says nothing about whether they fit together on the board; `layouts_of` does.

    Raises:
        PartitionRejectedError: The board has no such profile.
    """
    profiles = sorted((model.profile(size) for size in sizes), key=lambda profile: profile.rank)
    return tuple(profile.size for profile in profiles)


def format_multiset(multiset: Sequence[str]) -> str:
    """Write a multiset as `parse_multiset` reads it: "4g+2g+1g", "7x1g"; "none" if it is empty."""
    terms = (size if count == 1 else f"{count}x{size}" for size, count in Counter(multiset).items())
    return "+".join(terms) or "none"


def parse_multiset(model: GpuModel, text: str) -> Multiset:
    """Read a multiset as people write it.

    Sizes or profile names in any order with "+", "," or spaces between them ("3g+4g", "2g,1g,4g", "3g.20gb
    4g.20gb"), repetition as "7x1g" or "1g*7", or the number of one of the original's codes. A bare "7" is
    therefore code 7 (3g+2g+2g), not a 7g.

    Raises:
        PartitionRejectedError: The text names no partition of this board.
    """
    wanted = text.strip().lower()
    if not wanted:
        raise PartitionRejectedError("partition '': expected sizes such as 4g+2g+1g or a code 0 to 18")
    if re.fullmatch(r"\d{1,3}", wanted):
        return multiset_of_code(model, int(wanted))
    multiset = canonical_multiset(model, (size for term in _SEPARATOR.split(wanted) for size in _repeated(term, text)))
    return _layouts_of(model, multiset)[0].multiset


def _repeated(term: str, text: str) -> list[str]:
    """Expand "7x1g" and "1g*7"; a term without a factor stands for itself."""
    if not term:
        raise PartitionRejectedError(f"partition {text!r} has an empty term: expected sizes such as 4g+2g+1g")
    match = _REPEATED.fullmatch(term)
    if match is None:
        return [term]
    factor = int(match["before"] or match["after"])
    # More than this no board holds; the bound keeps a typing slip from filling the memory.
    if not 1 <= factor <= 16:
        raise PartitionRejectedError(f"partition {text!r} repeats {factor} times: expected 1 to 16")
    return [match["size_after"] or match["size_before"]] * factor


@cache
def _layouts_of(model: GpuModel, multiset: Multiset) -> tuple[Partition, ...]:
    counts = Counter(multiset)
    choices = [each for each in candidates(model, all_profiles=True) if each.profile.size in counts]
    limits = {size: min(count, model.profile(size).max_count) for size, count in counts.items()}
    found = [Partition(placed=placed) for placed in _disjoint(choices, limits) if len(placed) == len(multiset)]
    if not found:
        raise PartitionRejectedError(
            f"partition {format_multiset(multiset)} does not fit on {model.name}: " + _shortage(model, multiset),
            hint="`clover mig partitions` lists the partitions that exist.",
        )
    # The sort is stable, so layouts with equal room stay in order of their starts.
    return tuple(sorted(found, key=lambda layout: -len(layout.room(model))))


def _shortage(model: GpuModel, multiset: Multiset) -> str:
    for size, count in Counter(multiset).items():
        profile = model.profile(size)
        if count > profile.max_count:
            return f"{size} is there {count} times, expected at most {profile.max_count}"
    for unit in ("memory_slices", "compute_slices"):
        taken = sum(getattr(model.profile(size), unit) for size in multiset)
        most: int = getattr(model, unit)
        if taken > most:
            return f"it takes {taken} {unit.replace('_', ' ')}, expected at most {most}"
    return "expected sizes whose placements do not overlap"


def _distinct_multisets(model: GpuModel, every: Iterable[Partition]) -> tuple[Multiset, ...]:
    rank = {profile.size: profile.rank for profile in model.profiles}
    distinct = {layout.multiset for layout in every}
    return tuple(sorted(distinct, key=lambda multiset: [rank[size] for size in multiset]))


def _disjoint(
    choices: Sequence[PlacedProfile],
    limits: Mapping[str, int],
    chosen: tuple[PlacedProfile, ...] = (),
) -> Iterator[tuple[PlacedProfile, ...]]:
    """Yield each way to extend `chosen` by disjoint choices (ordered by start) within the limits by size."""
    yield chosen
    for each in choices:
        size, end = each.profile.size, each.placement.end
        left = limits[size] - 1
        if left >= 0:
            later = [other for other in choices if other.placement.start >= end]
            yield from _disjoint(later, {**limits, size: left}, (*chosen, each))
