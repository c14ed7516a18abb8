"""Spaces of configurations: of one GPU, the original's (one for all GPUs), and fleets whose GPUs differ.

Sizes on an A100 with 3 / 4 variants (planning study, held by tests/unit/test_space.py): one GPU 438 / 1282 distinct
graphs, 208 / 682 without the largest variant on 1g, 774 / 2093 if instances may stay empty; the original's (code,
assignment) pairs 4071 / 24 804; two GPUs that differ 18 688 / 107 825 (6552 / 44 345 without the largest on 1g).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, product
from random import Random

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats
from clover.core.configuration import FleetCounts, GpuConfiguration, GpuMode, InstanceKind
from mig.codes import CODES

#: Codes that the original skips as duplicates of an earlier one.
ORIGINAL_SKIPPED = frozenset({9, 15, 16, 17})
#: More fleets than this are not listed: above it the flow model is the way.
MAX_FLEETS = 2_000_000

Multisets = Sequence[Sequence[str]]


def known_multisets(model: ServiceModel, multisets: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """Return the partitions on each of whose profiles some variant is known to fit; all of them if there is none.

    A table may have been measured on some profiles only.
    """
    sizes = {size for multiset in multisets for size in multiset}
    known = {size for size in sizes if any(model.fits(variant, size) for variant in model.table.variants)}
    return tuple(multiset for multiset in multisets if known.issuperset(multiset)) or multisets


def all_gpu_configurations(
    model: ServiceModel,
    multisets: Multisets,
    *,
    empty_instances: bool = False,
    ignore_memory: bool = False,
    modes: Iterable[GpuMode] = (),
) -> list[GpuConfiguration]:
    """Enumerate every distinct configuration of one GPU.

    Args:
        model: Says which variants there are and where each fits.
        multisets: Partitions that the board allows.
        empty_instances: Instances may stay without a variant, but not all of them.
        ignore_memory: Also where a variant is known to run out of memory.
        modes: `parked` and `off`, to be listed too.

    Raises:
        ValueError: No variant fits on a size.
    """
    found: dict[GpuConfiguration, None] = {}
    for multiset in multisets:
        sizes = sorted(set(multiset), key=tuple(multiset).index)
        choices = [
            list(
                combinations_with_replacement(
                    _options(model, size, empty_instances=empty_instances, ignore_memory=ignore_memory),
                    tuple(multiset).count(size),
                )
            )
            for size in sizes
        ]
        for chosen in product(*choices):
            instances = tuple(
                InstanceKind(size, variant)
                for size, variants in zip(sizes, chosen, strict=True)
                for variant in variants
                if variant
            )
            if instances:
                found[GpuConfiguration(instances)] = None
    found.update(dict.fromkeys(GpuConfiguration(mode=mode) for mode in modes if mode != "serving"))
    return list(found)


def random_gpu_configuration(
    model: ServiceModel, multisets: tuple[tuple[str, ...], ...], rng: Random
) -> GpuConfiguration:
    """Draw a partition uniformly, then a fitting variant for each of its instances uniformly."""
    multiset = rng.choice(multisets)
    return _filled(multiset, tuple(rng.choice(_fitting(model, size)) for size in multiset))


@lru_cache(maxsize=65_536)
def _filled(multiset: tuple[str, ...], variants: tuple[str, ...]) -> GpuConfiguration:
    # Searches draw the same ones again and again.
    return GpuConfiguration(tuple(map(InstanceKind, multiset, variants)))


def original_assignments(variants: Sequence[str]) -> Iterator[tuple[InstanceKind, ...]]:
    """List the original's space: every partition code that it uses, with every assignment in the code's order.

    Many of them mean the same; the original knows nothing of memory.
    """
    for code, sizes in enumerate(CODES):
        if code not in ORIGINAL_SKIPPED:
            for assignment in product(variants, repeat=len(sizes)):
                yield tuple(InstanceKind(size, variant) for size, variant in zip(sizes, assignment, strict=True))


def kinds_of(gpus: Iterable[GpuConfiguration]) -> tuple[InstanceKind, ...]:
    """Return the kinds that occur in some configurations, sorted."""
    return tuple(sorted({kind for gpu in gpus for kind in gpu.instances}))


def count_matrix(gpus: Sequence[GpuConfiguration], kinds: Sequence[InstanceKind]) -> Floats:
    """Return the instances of each configuration by kind, (configurations, kinds), as the closed form takes them."""
    column = {kind: index for index, kind in enumerate(kinds)}
    counts = np.zeros((len(gpus), len(kinds)))
    for row, gpu in enumerate(gpus):
        for kind in gpu.instances:
            counts[row, column[kind]] += 1.0
    return counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetSpace:
    """Fleets of n GPUs that differ in what performance depends on.

    Attributes:
        gpus: Configurations of one GPU.
        kinds: Columns of the counts.
        counts: Instances by kind, (C, K).
        members: For each fleet the configurations of its GPUs, as ascending indices into `gpus`, (C, n).
        active, parked, off: Number of GPUs in each state, (C,).
    """

    gpus: tuple[GpuConfiguration, ...]
    kinds: tuple[InstanceKind, ...]
    counts: Floats
    members: NDArray[np.intp]
    active: NDArray[np.intp]
    parked: NDArray[np.intp]
    off: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.counts)

    def idle_power_w(self, model: ServiceModel) -> Floats:
        """Return the power of each fleet without any request, (C,)."""
        table = model.table
        return self.active * table.idle_power_w + self.parked * table.parked_power_w + self.off * table.off_power_w

    def fleet(self, row: int) -> FleetCounts:
        """Return one fleet."""
        return FleetCounts(
            kinds=tuple((kind, int(n)) for kind, n in zip(self.kinds, self.counts[row], strict=True) if n),
            active=int(self.active[row]),
            parked=int(self.parked[row]),
            off=int(self.off[row]),
        )

    def members_of(self, row: int) -> tuple[GpuConfiguration, ...]:
        """Return the configurations of a fleet's GPUs."""
        return tuple(self.gpus[int(index)] for index in self.members[row])


def uniform_fleets(gpus: Sequence[GpuConfiguration], n: int) -> FleetSpace:
    """Return the original's fleets: every GPU alike; parked and off ones are left out, since such fleets serve nobody.

    Raises:
        ValueError: The fleet has less than one GPU, or no configuration serves.
    """
    _check(gpus, n)
    serving = [gpu for gpu in gpus if gpu.mode == "serving"]
    members = np.repeat(np.arange(len(serving))[:, None], n, axis=1)
    kinds = kinds_of(serving)
    return _space(serving, members, kinds, count_matrix(serving, kinds))


def mixed_fleets(gpus: Sequence[GpuConfiguration], n: int) -> FleetSpace:
    """Return the fleets of n GPUs from these configurations that differ in counts and states and serve somebody.

    Raises:
        ValueError: The fleet has less than one GPU, no configuration serves, or there are more than `MAX_FLEETS`.
    """
    _check(gpus, n)
    kinds = kinds_of(gpus)
    per_gpu = count_matrix(gpus, kinds)
    members, single = np.arange(len(gpus))[:, None], _fingerprints(gpus, per_gpu)
    prints = single
    for _ in range(n - 1):
        first, second = _ascending_pairs(members[:, -1], len(gpus))
        prints, kept = np.unique(prints[first] + single[second], return_index=True)
        if len(kept) > MAX_FLEETS:
            raise ValueError(f"{len(kept)} different fleets: expected at most {MAX_FLEETS}")
        order = np.argsort(kept)
        prints, kept = prints[order], kept[order]
        members = np.column_stack([members[first[kept]], second[kept]])
    space = _space(gpus, members, kinds, per_gpu)
    serving = space.active > 0
    return _subset(space, np.flatnonzero(serving))


def _ascending_pairs(last: NDArray[np.intp], gpus: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return each row once with every configuration that is not before its last one."""
    repeats = gpus - last
    if int(repeats.sum()) > 4 * MAX_FLEETS:
        raise ValueError(f"{int(repeats.sum())} fleets to list: expected fewer GPUs or configurations")
    rows = np.repeat(np.arange(len(last)), repeats)
    offset = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return rows, last[rows] + offset


def _space(
    gpus: Sequence[GpuConfiguration], members: NDArray[np.intp], kinds: tuple[InstanceKind, ...], per_gpu: Floats
) -> FleetSpace:
    modes = np.array([[gpu.mode == mode for mode in ("serving", "parked", "off")] for gpu in gpus], dtype=np.intp)
    states = modes[members].sum(axis=1)
    counts = np.zeros((len(members), len(kinds)))
    for column in members.T:
        counts += per_gpu[column]
    return FleetSpace(
        gpus=tuple(gpus),
        kinds=kinds,
        counts=counts,
        members=members,
        active=states[:, 0],
        parked=states[:, 1],
        off=states[:, 2],
    )


def _fingerprints(gpus: Sequence[GpuConfiguration], per_gpu: Floats) -> NDArray[np.uint64]:
    """Return a number per configuration so that fleets are alike exactly if the sums of their numbers are.

    Sums of fixed random 64-bit weights, modulo 2**64: two different fleets among a million share one with a probability
    of 1e-7, and the weights are always the same ones.
    """
    modes = np.array([[gpu.mode == mode for mode in ("serving", "parked", "off")] for gpu in gpus])
    columns: NDArray[np.uint64] = np.column_stack([per_gpu, modes]).astype(np.uint64)
    weights = np.frombuffer(np.random.default_rng(0).bytes(8 * columns.shape[1]), dtype=np.uint64)
    return np.matmul(columns, weights)


def _subset(space: FleetSpace, rows: NDArray[np.intp]) -> FleetSpace:
    return FleetSpace(
        gpus=space.gpus,
        kinds=space.kinds,
        counts=space.counts[rows],
        members=space.members[rows],
        active=space.active[rows],
        parked=space.parked[rows],
        off=space.off[rows],
    )


def _check(gpus: Sequence[GpuConfiguration], n: int) -> None:
    if n < 1:
        raise ValueError(f"fleet of {n} GPUs: expected at least 1")
    if not any(gpu.mode == "serving" for gpu in gpus):
        raise ValueError("no configuration serves: expected at least one")


def _options(model: ServiceModel, size: str, *, empty_instances: bool, ignore_memory: bool) -> list[str]:
    options = _fitting(model, size, ignore_memory=ignore_memory)
    return [*options, ""] if empty_instances else options


def _fitting(model: ServiceModel, size: str, *, ignore_memory: bool = False) -> list[str]:
    fitting = [
        variant.name
        for variant in model.application.variants
        if (size in model.table.variants[variant.name].service_ms if ignore_memory else model.fits(variant.name, size))
    ]
    if not fitting:
        raise ValueError(f"no variant of {model.application.name} fits on {size} of {model.table.gpu_model}")
    return fitting
