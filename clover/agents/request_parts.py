"""What the request side of a node agent is given and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from clover.agents.pool import InstancePool
from clover.bus.port import Bus
from clover.core.application import Application
from clover.core.batching import Batching
from clover.core.clock import Clock
from clover.power.account import GpuAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """Times of the request side.

    Attributes:
        block_s: Longest wait for new requests in one call.
        lease_s: An entry that nobody has touched for this long may be claimed.
        hold_s: What has been taken and cannot begin is handed back when nothing became free for this long.
        sweep_s: How often to look for requests that nobody will answer.
    """

    block_s: float = 1.0
    lease_s: float = 5.0
    hold_s: float = 1.0
    sweep_s: float = 1.0


@dataclass(slots=True, kw_only=True)
class RequestCounts:
    """What happened to requests besides being served, since boot.

    Attributes:
        suppressed: Finished too late: somebody else had answered, so nobody was answered twice.
        claimed: Taken over from consumers that went silent, or handed back by them.
        handed_back: Given up without having been begun.
        vanished: Found to be gone from the stream while pending: trimmed by somebody.
        answered: Answered, or expired before work on them began.
        late: Those of them that took longer than the SLA.
    """

    suppressed: int = 0
    claimed: int = 0
    handed_back: int = 0
    vanished: int = 0
    answered: int = 0
    late: int = 0


@dataclass(slots=True, kw_only=True)
class RequestPorts:
    """What the request side works with."""

    node: str
    consumer: str
    application: Application
    energy_source: str
    bus: Bus
    pool: InstancePool
    accounts: dict[int, GpuAccount]
    clock: Clock
    rng: Random
    batching: Batching = field(default_factory=Batching)
    #: Takes (kind, GPU, reason) of what is worth an event.
    report: Callable[[str, int, str], None] = lambda _kind, _gpu, _reason: None
