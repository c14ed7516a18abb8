"""A worker that runs in a process of its own, as the agent sees it: requests in, answers and what they cost out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from clover.serving.framing import MAX_PAYLOAD_BYTES, Exhausted, Failed, Job, Ready, Refused, Start
from clover.serving.port import InvalidInputError, OutOfMemoryError, Served, ServingError
from clover.serving.worker_process import WorkerProcess, WorkerSettings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from clover.serving.port import InstanceSpec, ServableRequest
    from clover.serving.worker_process import Answer

#: Sources of energy figures: processor seconds x watts per core, and the performance table.
TDP_SOURCE: Final = "estimate:tdp"
TABLE_SOURCE: Final = "estimate:table"


class ProcessWorker:
    """One worker process, started by `clover.serving.process`. Implements `clover.serving.port.Worker`.

    Args:
        spec: What it serves.
        process: Just started, with all three pipes.
        settings: How long things may take, and what a core draws.
        table_j: Dynamic energy of a request by variant, J, if instances are devices and not cores.
        log: Where what it writes to stderr is kept; None keeps only the last lines.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        process: asyncio.subprocess.Process,
        settings: WorkerSettings,
        table_j: Callable[[str], float] | None = None,
        *,
        log: Path | None = None,
    ) -> None:
        self.spec = spec
        self._settings = settings
        self._table_j = table_j
        self._number = 0
        self._started_at = time.perf_counter()
        self._start_s = 0.0
        self._timings = Ready(load_s=0.0, warm_up_s=0.0)
        self._process = WorkerProcess(spec, process, settings, log=log)

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    @property
    def fallback(self) -> str:
        """Why it computes on the CPU although a MIG device was meant; empty otherwise."""
        return self._timings.fallback

    @property
    def energy_source(self) -> str:
        """Source of its energy figures."""
        return TDP_SOURCE if self._table_j is None or self.fallback else TABLE_SOURCE

    @property
    def ended(self) -> bool:
        """Whether the process has ended and everybody who waited was told."""
        return self._process.ended

    @property
    def start_s(self) -> float:
        """Seconds from the start of the process to the ready message, as the agent saw it."""
        return self._start_s

    @property
    def load_s(self) -> float:
        """Seconds in which the worker imported its libraries and loaded the variant."""
        return self._timings.load_s

    @property
    def warm_up_s(self) -> float:
        """Seconds of the first inferences."""
        return self._timings.warm_up_s

    @property
    def ready(self) -> Ready:
        """What the worker said of itself when it was ready: times, device, memory, versions."""
        return self._timings

    @property
    def batch_ms(self) -> float | None:
        """Time of a full batch, measured when it loaded; None if it forms none."""
        return self._timings.batch_ms

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that the worker wrote to stderr, at most 20, oldest first."""
        return self._process.last_lines

    async def get_ready(self, start: Start) -> None:
        """Send the start frame and wait until the variant is loaded and warm.

        Raises:
            ServingError: It cannot be served, or not within the limit; the process has then ended.
        """
        answer = await self._process.begin(start)
        if isinstance(answer, Failed):
            await self.stop()
            raise ServingError(
                f"{self.spec.name} ({self.spec.variant}) did not start: {answer.reason}", hint=answer.hint
            )
        self._timings = answer
        self._start_s = time.perf_counter() - self._started_at

    async def serve(self, request: ServableRequest) -> Served:
        """Answer one request, see `clover.serving.port.Worker.serve`."""
        if len(request.payload) > MAX_PAYLOAD_BYTES:
            raise _too_large()
        async with self._process.turn:
            # Not the event loop's time: some loops count whole milliseconds.
            begun = time.perf_counter()
            [answer] = await self._process.ask(self._jobs([request]))
            service_ms = (time.perf_counter() - begun) * 1e3
        served = self._served(answer, service_ms)
        if isinstance(served, ServingError):
            raise served
        return served

    async def serve_together(self, requests: Sequence[ServableRequest]) -> list[Served | ServingError]:
        """Answer several requests with one inference, see `clover.serving.port.BatchingWorker.serve_together`."""
        sound = [request for request in requests if len(request.payload) <= MAX_PAYLOAD_BYTES]
        async with self._process.turn:
            begun = time.perf_counter()
            answers = iter(await self._process.ask(self._jobs(sound)) if sound else ())
            service_ms = (time.perf_counter() - begun) * 1e3
        return [
            self._served(next(answers), service_ms) if len(request.payload) <= MAX_PAYLOAD_BYTES else _too_large()
            for request in requests
        ]

    def _served(self, answer: Answer, service_ms: float) -> Served | ServingError:
        if isinstance(answer, Refused):
            return InvalidInputError(answer.reason)
        if isinstance(answer, Exhausted):
            return OutOfMemoryError(f"{self.spec.name} ({self.spec.variant}): {answer.reason}")
        return Served(
            content_type=answer.content_type,
            payload=answer.payload,
            service_ms=service_ms,
            energy_j=self._energy_j(answer.cpu_s),
            busy_s=answer.cpu_s,
            instance_ms=min(answer.instance_s * 1e3, service_ms),
            energy_source=self.energy_source,
        )

    def _energy_j(self, cpu_s: float) -> float:
        if self._table_j is None or self.fallback:
            return cpu_s * self._settings.power_w_per_core
        return self._table_j(self.spec.variant)

    async def wait_died(self) -> str:
        """Wait until the process has ended and return why."""
        return await self._process.wait_died()

    async def stop(self) -> None:
        """Close the worker's input, let it finish what it is doing, and kill it if that takes too long."""
        await self._process.stop()

    def _jobs(self, requests: Sequence[ServableRequest]) -> list[Job]:
        first, self._number = self._number + 1, self._number + len(requests)
        return [
            Job(
                number=number,
                content_type=request.content_type,
                payload=request.payload,
                following=self._number - number,
            )
            for number, request in enumerate(requests, start=first)
        ]


def _too_large() -> InvalidInputError:
    return InvalidInputError(f"the input has more than {MAX_PAYLOAD_BYTES // 2**20} MiB")
