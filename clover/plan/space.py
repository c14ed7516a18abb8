"""The space of configurations that the original searches: one configuration of a GPU, given to all of them."""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from random import Random

from clover.core.application import ServiceModel
from clover.core.configuration import GpuConfiguration, InstanceKind


def all_gpu_configurations(model: ServiceModel, multisets: tuple[tuple[str, ...], ...]) -> list[GpuConfiguration]:
    """Enumerate every distinct (partition, variants) of one GPU in which each variant fits; no empty instance."""
    found: dict[GpuConfiguration, None] = {}
    for multiset in multisets:
        sizes = sorted(set(multiset), key=multiset.index)
        choices = [list(combinations_with_replacement(_fitting(model, size), multiset.count(size))) for size in sizes]
        for chosen in product(*choices):
            instances = tuple(
                InstanceKind(size, variant)
                for size, variants in zip(sizes, chosen, strict=True)
                for variant in variants
            )
            found[GpuConfiguration(instances)] = None
    return list(found)


def random_gpu_configuration(
    model: ServiceModel, multisets: tuple[tuple[str, ...], ...], rng: Random
) -> GpuConfiguration:
    """Draw a partition uniformly, then a fitting variant for each of its instances uniformly."""
    multiset = rng.choice(multisets)
    return GpuConfiguration(tuple(InstanceKind(size, rng.choice(_fitting(model, size))) for size in multiset))


def _fitting(model: ServiceModel, size: str) -> list[str]:
    fitting = [variant.name for variant in model.application.variants if model.fits(variant.name, size)]
    if not fitting:
        raise ValueError(f"no variant of {model.application.name} fits on {size} of {model.table.gpu_model}")
    return fitting
