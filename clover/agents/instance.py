"""One instance of a node: a worker on a GPU instance."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from clover.bus.messages import InstancePhase
from clover.core.configuration import InstanceKind
from clover.serving.port import Worker
from mig.device import GpuInstance


@dataclass(slots=True, eq=False)
class Instance:
    """One instance of the node.

    Attributes:
        key: Number given by the pool, in order of appearance.
        gpu: Index of its GPU.
        device: The GPU instance below it.
        kind: Variant and profile.
        worker: Serves it.
        phase: `draining` takes nothing new; it is done when `drained` is set.
        idle_since_s: When it became ready or last finished.
        accuracy_pct: Of its variant.
        served: Requests since its worker started.
        busy_s: Seconds in work since then.
        gone: Its worker died under a request; whoever watches the worker has not said so yet.
        room: How many more requests may join the batch that it is about to begin.
    """

    key: int
    gpu: int
    device: GpuInstance
    kind: InstanceKind
    worker: Worker
    phase: InstancePhase
    idle_since_s: float
    accuracy_pct: float
    served: int = 0
    busy_s: float = 0.0
    gone: bool = False
    room: int = 0
    drained: asyncio.Event = field(default_factory=asyncio.Event)
