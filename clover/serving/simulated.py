"""Serving without a GPU: service times are drawn from the performance table and waited for.

Everything it reports is marked `simulated`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from random import Random

from clover.core.application import ServiceModel
from clover.serving.port import InstanceSpec, ServableRequest, Served, WorkerDiedError


class SimulatedServicer:
    """Starts simulated workers for one node.

    Args:
        model: Application and table.
        rng: Source of the service times.
        contention: Mean busy fraction of the node's live instances at present.
        sleep: How to wait; the event loop's own by default.
    """

    energy_source = "simulated"

    def __init__(
        self,
        *,
        model: ServiceModel,
        rng: Random,
        contention: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._model = model
        self._rng = rng
        self._contention = contention
        self._sleep = sleep

    async def start(self, spec: InstanceSpec) -> SimulatedWorker:
        """Return a worker after the table's start-up time."""
        await self._sleep(self._model.table.change.worker_start_s)
        return SimulatedWorker(spec, self._model, self._rng, self._contention, self._sleep)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


class SimulatedWorker:
    """One variant on one simulated instance."""

    pid: int | None = None
    last_lines: tuple[str, ...] = ()
    fallback = ""
    energy_source = "simulated"

    def __init__(
        self,
        spec: InstanceSpec,
        model: ServiceModel,
        rng: Random,
        contention: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._spec = spec
        self._model = model
        self._rng = rng
        self._contention = contention
        self._sleep = sleep
        self._died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(self, request: ServableRequest) -> Served:  # noqa: ARG002 - a simulated answer does not depend on its input
        """Wait as long as the table says and answer with nothing but the figures."""
        if self._died.done():
            raise WorkerDiedError(self._died.result())
        rho = self._contention()
        host_ms, instance_ms = self._draw_ms(rho)
        service_ms = host_ms + instance_ms
        await self._sleep(service_ms / 1e3)
        if self._died.done():
            raise WorkerDiedError(self._died.result())
        return Served(
            content_type="application/x-clover-simulated",
            payload=b"",
            service_ms=service_ms,
            energy_j=self._model.dynamic_j(self._spec.variant, rho),
            busy_s=service_ms / 1e3,
            instance_ms=instance_ms,
        )

    async def wait_died(self) -> str:
        """Wait until the worker has ended; return why."""
        return await asyncio.shield(self._died)

    def kill(self, reason: str) -> None:
        """Die as a process would: the request in work fails."""
        if not self._died.done():
            self._died.set_result(reason)

    async def stop(self) -> None:
        """End; nothing to release."""
        self.kill("stopped")

    def _draw_ms(self, rho: float) -> tuple[float, float]:
        """Draw the host's part and the instance's."""
        table, spec = self._model.table, self._spec
        host = self._model.host_ms(spec.variant, rho) * self._log_normal(table.host_lognormal_sigma)
        return host, self._model.gpu_ms(spec.variant, spec.profile) * self._log_normal(table.gpu_lognormal_sigma)

    def _log_normal(self, sigma: float) -> float:
        """Draw a log-normal factor with mean 1."""
        return math.exp(self._rng.gauss(-sigma * sigma / 2.0, sigma))
