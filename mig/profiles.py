"""Kinds of GPU instance and the boards that offer them: pure tables, each with its source.

The tables serve simulation and planning without a board. On a real GPU the driver is asked for its own table,
because profile ids, names and sizes differ between boards: id 14 is a 2g on an A100 and a 1g on an A30.

Units: slices are shares of one board, sevenths of the compute (quarters on an A30) and eighths of the memory
(quarters on an A30); memory is in MiB (1 GiB = 1024 MiB). Boards print GiB with two decimals, cut off from
multiples of 64 MiB, so 9.62 GiB is 9856 MiB. Where drivers differ the smaller figure is kept: what fits there
fits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from mig.errors import PartitionRejectedError, UnknownGpuModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A kind of GPU instance of one board, such as "3g.20gb".

    Attributes:
        name: What the driver calls it; it differs between boards ("3g.20gb" here, "3g.40gb" there).
        size: The short name that is the same on every board, and unique on one: "3g"; with the media
            engines "1g+me"; with twice the memory of the plain profile "1g+mem". See `size_of`.
        compute_slices: Compute slices that it takes (of 7, on an A30 of 4).
        memory_slices: Memory slices that a placement of it takes (of 8, on an A30 of 4).
        memory_mib: Memory that a process sees, MiB.
        multiprocessors: Streaming multiprocessors; not proportional to the slices on an H100.
        nvml_id: Profile id that the driver's create and list calls take; its meaning depends on the board.
        max_count: How many of this profile one board can hold.
        starts: Memory slices at which an instance may begin, ascending.
    """

    name: str
    size: str
    compute_slices: int
    memory_slices: int
    memory_mib: int
    multiprocessors: int
    nvml_id: int
    max_count: int
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in ("compute_slices", "memory_slices", "memory_mib", "multiprocessors", "max_count"):
            value: int = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field} of profile {self.name!r} is {value}: expected at least 1")
        if not self.starts or list(self.starts) != sorted(set(self.starts)) or self.starts[0] < 0:
            raise ValueError(f"starts of profile {self.name!r} are {self.starts}: expected ascending slices from 0")

    @property
    def rank(self) -> tuple[int, int, str]:
        """Sort key that puts the largest profile first; the only order of sizes there is."""
        return (-self.compute_slices, -self.memory_slices, self.size)

    @property
    def is_basic(self) -> bool:
        """Whether it is the plain profile of its compute slices: no media engines, no double memory."""
        return self.size == f"{self.compute_slices}g"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """A kind of board and the profiles it offers.

    Attributes:
        name: Key in `GPU_MODELS` and on the command line, such as "a100-40gb".
        title: Name for people.
        compute_slices: Compute slices of the whole board.
        memory_slices: Memory slices of the whole board; placements count in these.
        profiles: Its profiles, largest first; sizes are unique.
        source: Where the figures come from.
    """

    name: str
    title: str
    compute_slices: int
    memory_slices: int
    profiles: tuple[Profile, ...]
    source: str

    def __post_init__(self) -> None:
        sizes = [profile.size for profile in self.profiles]
        if len(set(sizes)) != len(sizes):
            raise ValueError(f"profiles of {self.name!r} have the sizes {sizes}: expected each size once")
        for profile in self.profiles:
            end = profile.starts[-1] + profile.memory_slices
            if end > self.memory_slices:
                raise ValueError(
                    f"starts of profile {profile.name!r} reach memory slice {end}: "
                    f"expected at most the {self.memory_slices} of {self.name!r}"
                )
        object.__setattr__(self, "profiles", tuple(sorted(self.profiles, key=lambda profile: profile.rank)))

    @property
    def basic_profiles(self) -> tuple[Profile, ...]:
        """The plain profiles, one for each number of compute slices: 7g 4g 3g 2g 1g, on an A30 4g 2g 1g."""
        return tuple(profile for profile in self.profiles if profile.is_basic)

    def profile(self, size_or_name: str) -> Profile:
        """Find a profile by its short size ("3g") or by its full name ("3g.20gb").

        Raises:
            PartitionRejectedError: The board has no such profile.
        """
        for profile in self.profiles:
            if size_or_name in {profile.size, profile.name}:
                return profile
        raise PartitionRejectedError(
            f"profile {size_or_name!r} on {self.name}: expected one of "
            + ", ".join(f"{profile.size} ({profile.name})" for profile in self.profiles),
            hint=self._hint(size_or_name),
        )

    def _hint(self, text: str) -> str:
        size = f"{text}g"
        known = any(profile.size == size for profile in self.profiles)
        return f"Write {size} for an instance of {text} compute slices." if known else ""


def size_of(name: str, *, double_memory: bool = False) -> str:
    """Shorten a driver's profile name to the size that is the same on every board.

    "3g.20gb" gives "3g", "1g.5gb+me" gives "1g+me" and "1g.24gb-me" gives "1g-me". A name does not tell that a
    profile has twice the usual memory ("1g.10gb" is plain on an 80 GB board and double on a 40 GB one), so the
    caller says it: "1g+mem".
    """
    compute, _, rest = name.partition(".")
    attributes = rest.lstrip("0123456789").removeprefix("gb")
    return compute + ("+mem" if double_memory else "") + attributes


def gpu_model(name: str) -> GpuModel:
    """Find a board by its name in `GPU_MODELS`.

    Raises:
        UnknownGpuModelError: There is no such table; the message lists those there are.
    """
    try:
        return GPU_MODELS[name]
    except KeyError:
        known = ", ".join(GPU_MODELS)
        raise UnknownGpuModelError(
            f"gpu_model {name!r}: expected one of {known}",
            hint="On a machine with the board, the driver's own table is read instead of a bundled one.",
        ) from None


# One line of a table: name, compute slices, memory slices, MiB, multiprocessors, id, max count, starts.
_Row = tuple[str, int, int, int, int, int, int, tuple[int, ...]]

_EACH_OF_7 = (0, 1, 2, 3, 4, 5, 6)


def _profiles(rows: Iterable[_Row]) -> tuple[Profile, ...]:
    return tuple(
        Profile(
            name=name,
            size=size_of(name, double_memory=compute == 1 and memory > 1),
            compute_slices=compute,
            memory_slices=memory,
            memory_mib=mib,
            multiprocessors=multiprocessors,
            nvml_id=nvml_id,
            max_count=max_count,
            starts=starts,
        )
        for name, compute, memory, mib, multiprocessors, nvml_id, max_count, starts in rows
    )


_A100_40GB = GpuModel(
    name="a100-40gb",
    title="NVIDIA A100 40GB",
    compute_slices=7,
    memory_slices=8,
    profiles=_profiles(
        [
            ("1g.5gb", 1, 1, 4864, 14, 19, 7, _EACH_OF_7),
            ("1g.5gb+me", 1, 1, 4864, 14, 20, 1, _EACH_OF_7),
            ("1g.10gb", 1, 2, 9856, 14, 15, 4, (0, 2, 4, 6)),
            ("2g.10gb", 2, 2, 9856, 28, 14, 3, (0, 2, 4)),
            ("3g.20gb", 3, 4, 19968, 42, 9, 2, (0, 4)),
            ("4g.20gb", 4, 4, 19968, 56, 5, 1, (0,)),
            ("7g.40gb", 7, 8, 40192, 98, 0, 1, (0,)),
        ]
    ),
    source="NVIDIA MIG User Guide v580, printed by real boards; NVIDIA/go-nvml mock a100.go agrees",
)

_A100_80GB = GpuModel(
    name="a100-80gb",
    title="NVIDIA A100 80GB",
    compute_slices=7,
    memory_slices=8,
    profiles=_profiles(
        [
            ("1g.10gb", 1, 1, 9728, 14, 19, 7, _EACH_OF_7),
            ("1g.10gb+me", 1, 1, 9728, 14, 20, 1, _EACH_OF_7),
            ("1g.20gb", 1, 2, 19968, 14, 15, 4, (0, 2, 4, 6)),
            ("2g.20gb", 2, 2, 19968, 28, 14, 3, (0, 2, 4)),
            ("3g.40gb", 3, 4, 40192, 42, 9, 2, (0, 4)),
            ("4g.40gb", 4, 4, 40192, 56, 5, 1, (0,)),
            ("7g.80gb", 7, 8, 80384, 98, 0, 1, (0,)),
        ]
    ),
    source="NVIDIA/mig-parted issue #97, printed by a real board; memory of 7g: NVIDIA/go-nvml mock a100.go",
)

_A30 = GpuModel(
    name="a30",
    title="NVIDIA A30 24GB",
    compute_slices=4,
    memory_slices=4,
    profiles=_profiles(
        [
            ("1g.6gb", 1, 1, 5952, 14, 14, 4, (0, 1, 2, 3)),
            ("1g.6gb+me", 1, 1, 5952, 14, 21, 1, (0, 1, 2, 3)),
            ("2g.12gb", 2, 2, 11968, 28, 5, 2, (0, 2)),
            ("2g.12gb+me", 2, 2, 11968, 28, 6, 1, (0, 2)),
            ("4g.24gb", 4, 4, 24000, 56, 0, 1, (0,)),
        ]
    ),
    source="printed by real boards; NVIDIA/go-nvml mock a30.go agrees",
)

# The go-nvml mock of this board is not used: it contradicts what real boards print (3g of 3 memory slices).
_H100_80GB = GpuModel(
    name="h100-80gb",
    title="NVIDIA H100 80GB",
    compute_slices=7,
    memory_slices=8,
    profiles=_profiles(
        [
            ("1g.10gb", 1, 1, 9984, 16, 19, 7, _EACH_OF_7),
            ("1g.10gb+me", 1, 1, 9984, 16, 20, 1, _EACH_OF_7),
            ("1g.20gb", 1, 2, 20096, 26, 15, 4, (0, 2, 4, 6)),
            ("2g.20gb", 2, 2, 20096, 32, 14, 3, (0, 2, 4)),
            ("3g.40gb", 3, 4, 40448, 60, 9, 2, (0, 4)),
            ("4g.40gb", 4, 4, 40448, 64, 5, 1, (0,)),
            ("7g.80gb", 7, 8, 81152, 132, 0, 1, (0,)),
        ]
    ),
    source="printed by real boards",
)

GPU_MODELS: Mapping[str, GpuModel] = MappingProxyType(
    {model.name: model for model in (_A100_40GB, _A100_80GB, _A30, _H100_80GB)}
)
"""The boards with a bundled table, by name."""
