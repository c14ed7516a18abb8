"""Where GPU instances lie on a board: placements in memory slices and what makes them legal. Pure.

The driver's rule is short: an instance takes the memory slices of its placement, and creating one fails when
a slice is taken or the profile is used up. The compute slices then never run out by themselves (NVIDIA
nvml.h, placements).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mig.errors import Shortage
    from mig.profiles import GpuModel, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A run of memory slices.

    Attributes:
        start: First memory slice, from 0.
        size: How many memory slices, at least 1.
    """

    start: int
    size: int

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ValueError(f"start of a placement is {self.start}: expected a memory slice from 0")
        if self.size < 1:
            raise ValueError(f"size of a placement is {self.size}: expected at least 1 memory slice")

    @property
    def end(self) -> int:
        """First memory slice after it."""
        return self.start + self.size

    @property
    def slices(self) -> range:
        """Its memory slices."""
        return range(self.start, self.end)

    def overlaps(self, other: Placement) -> bool:
        """Whether the two share a memory slice."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{{{self.start}}}:{self.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedProfile:
    """A profile at one of its places: an instance to be, or what one is regardless of its id.

    Raises:
        ValueError: The profile cannot lie at that placement.
    """

    profile: Profile
    placement: Placement

    def __post_init__(self) -> None:
        reason = misplaced(self.profile, self.placement)
        if reason:
            raise ValueError(reason)

    @property
    def key(self) -> tuple[str, int]:
        """Size and start, which say everything on a given board."""
        return (self.profile.size, self.placement.start)

    def __str__(self) -> str:
        return f"{self.profile.size}@{self.placement.start}"


def place(profile: Profile, start: int) -> PlacedProfile:
    """Put a profile at a memory slice; its length follows from the profile.

    Raises:
        ValueError: The profile cannot start there.
    """
    return PlacedProfile(profile=profile, placement=Placement(start=start, size=profile.memory_slices))


def misplaced(profile: Profile, placement: Placement) -> str:
    """Say why a profile cannot lie at a placement even on an empty board; empty if it can."""
    if placement.size != profile.memory_slices:
        return (
            f"placement {placement} of {profile.name} has size {placement.size}: "
            f"expected {profile.memory_slices} memory slices"
        )
    if placement.start not in profile.starts:
        starts = ", ".join(map(str, profile.starts))
        return f"placement {placement} of {profile.name} starts at {placement.start}: expected one of {starts}"
    return ""


def unfit(profile: Profile, placement: Placement, placed: Iterable[PlacedProfile]) -> str:
    """Say why an instance cannot be created beside those that are there; empty if it can."""
    reason = misplaced(profile, placement)
    if reason:
        return reason
    same = 0
    for other in placed:
        if placement.overlaps(other.placement):
            return (
                f"placement {placement} of {profile.name} overlaps {other.profile.name} "
                f"at {other.placement}: expected free memory slices"
            )
        same += other.profile.size == profile.size
    if same >= profile.max_count:
        return f"{profile.name} would be there {same + 1} times: expected at most {profile.max_count}"
    return ""


def shortage(profile: Profile, placement: Placement, placed: Sequence[PlacedProfile]) -> Shortage | None:
    """Tell apart why an instance that may lie at a placement has no room beside those there; None if it has.

    A driver says "insufficient resources" in all these cases.
    """
    if PlacedProfile(profile=profile, placement=placement) in placed:
        return "already_there"
    if not unfit(profile, placement, placed):
        return None
    if sum(other.profile.size == profile.size for other in placed) >= profile.max_count:
        return "used_up"
    places = [place(profile, start).placement for start in profile.starts]
    elsewhere = any(not unfit(profile, other, placed) for other in places)
    # Only slices that some placement of the profile covers could ever serve it: no 1g starts at the last one.
    free = {each for other in places for each in other.slices}.difference(*(other.placement.slices for other in placed))
    return "taken" if elsewhere or len(free) < profile.memory_slices else "fragmented"


@cache
def candidates(model: GpuModel, *, all_profiles: bool = False) -> tuple[PlacedProfile, ...]:
    """List every profile of a board at each of its starts, by start, the largest first.

    Args:
        model: The board.
        all_profiles: With media-engine and double-memory profiles too, not only the basic ones.
    """
    profiles = model.profiles if all_profiles else model.basic_profiles
    placed = [place(profile, start) for profile in profiles for start in profile.starts]
    return tuple(sorted(placed, key=lambda each: (each.placement.start, each.profile.rank)))
