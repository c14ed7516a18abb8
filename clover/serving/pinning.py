"""Which cores an emulated GPU has, and keeping its workers on them: what another GPU does shall not slow it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def cores_of_gpus(gpus: int, *, first: int = 1) -> list[tuple[int, ...]]:
    """Return a set of cores for each emulated GPU: one core each, from the `first` of those this process may use.

    Core 0 is left to agents and server where that can be. With more GPUs than cores they share. Empty sets, which mean
    any core, where cores cannot be chosen (not on Linux) or there is only one.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    usable: list[int] = sorted(affinity(0)) if affinity is not None else []
    if len(usable) < 2:
        return [()] * gpus
    ours = usable[1:]
    return [(ours[(first - 1 + index) % len(ours)],) for index in range(gpus)]


def pin(cpus: Sequence[int]) -> None:
    """Keep this process on some cores; where that is not allowed it is said on stderr, and any core is as good."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except (AttributeError, OSError) as error:
        sys.stderr.write(f"not pinned to cores {list(cpus)}: {error}\n")
