"""What GPUs are cut into and which variant runs where: values that are their own dictionary keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

GpuMode = Literal["serving", "parked", "off"]


@dataclass(frozen=True, slots=True, order=True)
class InstanceKind:
    """A variant on a profile size such as `3g`; all instances of one kind behave alike."""

    profile: str
    variant: str

    def __str__(self) -> str:
        return f"{self.profile}:{self.variant}"


@dataclass(frozen=True, slots=True)
class ConfigurationGraph:
    """Counts of variant x profile: the weights of the bipartite graph of the Clover paper (SC'23, section 4).

    Two ways to cut and fill a GPU with the same graph are the same configuration.
    """

    weights: tuple[tuple[InstanceKind, int], ...]

    @staticmethod
    def of(kinds: Iterable[InstanceKind]) -> ConfigurationGraph:
        """Count instance kinds."""
        return ConfigurationGraph(tuple(sorted(Counter(kinds).items())))

    def distance(self, other: ConfigurationGraph) -> int:
        """Return the Manhattan distance between the edge weights: moving one instance changes two weights."""
        mine, theirs = dict(self.weights), dict(other.weights)
        return sum(abs(mine.get(kind, 0) - theirs.get(kind, 0)) for kind in mine.keys() | theirs.keys())


@lru_cache(maxsize=65_536)
def _graph_of(instances: tuple[InstanceKind, ...]) -> ConfigurationGraph:
    # Searches compare the same configurations thousands of times.
    return ConfigurationGraph.of(instances)


def _canonical(kind: InstanceKind) -> tuple[int, str, str]:
    digits = kind.profile.partition("g")[0]
    return (-int(digits) if digits.isdigit() else 0, kind.profile, kind.variant)


@dataclass(frozen=True, slots=True)
class GpuConfiguration:
    """One GPU: its instances in canonical order (larger profiles first), or parked, or off."""

    instances: tuple[InstanceKind, ...] = ()
    mode: GpuMode = "serving"

    def __post_init__(self) -> None:
        if (self.mode == "serving") != bool(self.instances):
            raise ValueError(
                f"GPU configuration {self.mode} with {len(self.instances)} instances: only a serving GPU has any"
            )
        object.__setattr__(self, "instances", tuple(sorted(self.instances, key=_canonical)))

    @property
    def multiset(self) -> tuple[str, ...]:
        """Profile sizes, largest first."""
        return tuple(kind.profile for kind in self.instances)

    @property
    def graph(self) -> ConfigurationGraph:
        """Counts of variant x profile."""
        return _graph_of(self.instances)

    def __str__(self) -> str:
        if self.mode != "serving":
            return self.mode
        counts = Counter(self.instances)
        return " ".join(f"{n}x{kind}" if n > 1 else str(kind) for kind, n in counts.items())


PARKED = GpuConfiguration(mode="parked")
OFF = GpuConfiguration(mode="off")


@dataclass(frozen=True, slots=True, order=True)
class GpuId:
    """One GPU of the fleet."""

    node: str
    index: int

    def __str__(self) -> str:
        return f"{self.node}/gpu{self.index}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """All GPUs of the fleet, in order of their ids."""

    gpus: tuple[tuple[GpuId, GpuConfiguration], ...]

    @staticmethod
    def of(gpus: Mapping[GpuId, GpuConfiguration]) -> Configuration:
        """Make a configuration from a mapping."""
        return Configuration(tuple(sorted(gpus.items(), key=lambda item: item[0])))

    @staticmethod
    def uniform(ids: Iterable[GpuId], gpu: GpuConfiguration) -> Configuration:
        """Give every GPU the same configuration, as the original Clover does."""
        return Configuration.of(dict.fromkeys(ids, gpu))

    def as_dict(self) -> dict[GpuId, GpuConfiguration]:
        """Return the configuration of each GPU."""
        return dict(self.gpus)

    def without(self, gpus: Collection[GpuId]) -> Configuration:
        """Return the configuration of the other GPUs."""
        return Configuration(tuple(each for each in self.gpus if each[0] not in gpus))

    @property
    def fleet(self) -> FleetCounts:
        """Forget which GPU is which."""
        modes = Counter(gpu.mode for _, gpu in self.gpus)
        kinds = Counter(kind for _, gpu in self.gpus for kind in gpu.instances)
        return FleetCounts(
            kinds=tuple(sorted(kinds.items())),
            active=modes["serving"],
            parked=modes["parked"],
            off=modes["off"],
        )

    def __str__(self) -> str:
        counts = Counter(str(gpu) for _, gpu in self.gpus)
        return ", ".join(f"{n} x [{text}]" for text, n in counts.items())


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """All that performance depends on: how many instances of each kind, how many GPUs work, are parked or off."""

    kinds: tuple[tuple[InstanceKind, int], ...]
    active: int
    parked: int = 0
    off: int = 0

    @staticmethod
    def uniform(gpu: GpuConfiguration, gpus: int) -> FleetCounts:
        """Count a fleet of equal GPUs."""
        counts = Counter(gpu.instances)
        return FleetCounts(kinds=tuple(sorted((kind, n * gpus) for kind, n in counts.items())), active=gpus)

    @property
    def instances(self) -> int:
        """Number of instances."""
        return sum(n for _, n in self.kinds)
