"""What an agent may ask of whatever serves a variant on a GPU instance: start, serve, stop, news of a death.

Implemented by worker processes that run real models (`clover.serving.process`) and by simulation from tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from clover.errors import CloverError


class ServingError(CloverError):
    """An instance could not be started, or could not answer a request."""

    exit_code = 6


class InvalidInputError(ServingError):
    """The request's input cannot be used (not a picture, say): the worker is fine, a retry useless."""


class OutOfMemoryError(ServingError):
    """The request did not fit into the instance's memory; the worker is fine, a retry useless."""


class WorkerDiedError(ServingError):
    """The worker died, or was ended because it hung; the request may be tried on another one."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, short enough for a reason."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class ServableRequest(Protocol):
    """The part of a request that a worker looks at; `clover.bus.messages.Request` has it."""

    @property
    def id(self) -> str:
        """Id of the request."""
        ...

    @property
    def content_type(self) -> str:
        """Media type of the payload."""
        ...

    @property
    def payload(self) -> bytes:
        """Raw bytes of the input."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One instance to be started: a variant on a GPU instance.

    Attributes:
        application: Name of the application.
        variant: Name of the variant.
        profile: Size of the GPU instance, such as `3g`.
        compute_slices: Compute slices of the GPU instance.
        total_slices: Compute slices of the whole GPU.
        device: UUID of the MIG device; empty on the CPU.
        name: What people call it, such as `n1/gpu0/3g@4`; appears in messages and in the process list.
        gpu: Index of its GPU on the node.
        memory_mib, multiprocessors: What the GPU instance has, by its profile; 0 if it is not known.
    """

    application: str
    variant: str
    profile: str
    compute_slices: int
    total_slices: int
    device: str
    name: str
    gpu: int = 0
    memory_mib: int = 0
    multiprocessors: int = 0

    def __post_init__(self) -> None:
        """Refuse a share of the GPU that is not within (0, 1]."""
        if not 0 < self.compute_slices <= self.total_slices:
            raise ValueError(f"compute_slices must be 1..total_slices ({self.total_slices}), got {self.compute_slices}")

    @property
    def fraction(self) -> float:
        """Share of the GPU's compute, above 0 and at most 1."""
        return self.compute_slices / self.total_slices


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answer and what it cost.

    Attributes:
        content_type: Media type of the result.
        payload: The result.
        service_ms: Begin to end of the work, including the time for which a slice of a CPU is held back.
        energy_j: Dynamic energy; its source is the servicer's `energy_source`.
        busy_s: Seconds of computing, of the host and the instance together.
        instance_ms: Part of `service_ms` on the instance; the rest is the host's. 0 if it was not measured.
        energy_source: Source of `energy_j`; empty: the servicer's.
    """

    content_type: str
    payload: bytes
    service_ms: float
    energy_j: float
    busy_s: float
    instance_ms: float = 0.0
    energy_source: str = ""


class Worker(Protocol):
    """A started and warm instance. It answers one request at a time; further calls wait for their turn."""

    @property
    def pid(self) -> int | None:
        """Process id, None if there is no process of its own."""
        ...

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What it last wrote to stderr, oldest line first; empty if there is no process of its own."""
        ...

    @property
    def energy_source(self) -> str:
        """Source of the energy of its answers."""
        ...

    @property
    def fallback(self) -> str:
        """Why it computes on the CPU although a MIG device was meant; empty otherwise."""
        ...

    async def serve(self, request: ServableRequest) -> Served:
        """Answer one request.

        On cancellation the answer is dropped; the worker finishes that work before it begins the next.

        Raises:
            InvalidInputError: The input cannot be used; the worker goes on.
            OutOfMemoryError: The request needs more memory than the instance has; the worker goes on.
            WorkerDiedError: The worker died or hung and was ended; it serves nothing any more.
        """
        ...

    async def wait_died(self) -> str:
        """Wait until the worker has ended for whatever reason, `stop` included; return why in one line."""
        ...

    async def stop(self) -> None:
        """End the worker within a bounded time, by force if need be; idempotent."""
        ...


@runtime_checkable
class BatchingWorker(Protocol):
    """What a worker can do beside (`Worker`) that answers several requests with one inference."""

    @property
    def batch_ms(self) -> float | None:
        """Time of a full batch, measured when it loaded; None if it can form none."""
        ...

    async def serve_together(self, requests: Sequence[ServableRequest]) -> list[Served | ServingError]:
        """Answer several requests at once: for each its answer, with its part of the energy, or its own failure.

        Raises:
            WorkerDiedError: The worker died or hung and was ended; none of them has been answered.
        """
        ...


class Servicer(Protocol):
    """Starts workers; one per node."""

    @property
    def energy_source(self) -> str:
        """Source of `Served.energy_j`: `estimate:table`, `estimate:tdp` or `simulated`."""
        ...

    async def start(self, spec: InstanceSpec) -> Worker:
        """Start an instance, load its variant and warm it up.

        On cancellation, as on failure, nothing is left running.

        Raises:
            ServingError: It did not start; the message says why.
        """
        ...

    async def close(self) -> None:
        """Stop every worker that was started; idempotent."""
        ...
