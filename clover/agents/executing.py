"""Runs batches of requests on instances, and says what became of each of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from clover.agents.answering import Answering
from clover.agents.batches import Batch, Batches, answers_of
from clover.agents.instance import Instance
from clover.agents.request_parts import RequestPorts
from clover.bus.values import Delivery
from clover.core.begin import Ending, ending_after_failure
from clover.core.outcome import Outcome
from clover.serving.port import InvalidInputError, OutOfMemoryError, Served, ServingError, WorkerDiedError


class Executing:
    """Lets the instances of one node work.

    Args:
        ports: What the request side works with.
        batches: Where batches are formed.
        answering: Ends requests.
        again: Takes a request that is to be tried again, before all others.
    """

    def __init__(
        self, ports: RequestPorts, batches: Batches, answering: Answering, again: Callable[[Delivery], None]
    ) -> None:
        self._ports = ports
        self._batches = batches
        self._answering = answering
        self._again = again

    async def serve(self, batch: Batch, *, epoch: int) -> None:
        """Serve a batch; its instance is free again afterwards, or gone."""
        instance, deliveries = batch.instance, batch.deliveries
        busy_s, gone = 0.0, False
        account, kind = self._ports.accounts[instance.gpu], instance.kind
        try:
            await self._batches.formed(batch)
            begun_ms = self._ports.clock.now_ms()
            account.begin_work(instance.key, kind.variant, kind.profile, begun_ms / 1e3)
            answers = await answers_of(instance.worker, [delivery.request for delivery in deliveries])
            busy_s = max(answer.service_ms if isinstance(answer, Served) else 0.0 for answer in answers) / 1e3
            # A dead worker must not be given the same request again before its death is noticed elsewhere.
            gone = any(isinstance(answer, WorkerDiedError) for answer in answers)
            # What is tried again comes before the rest, and in its order.
            for delivery, answer in reversed(list(zip(deliveries, answers, strict=True))):
                if isinstance(answer, Served):
                    self._answering.answer(instance, delivery, answer, begun_ms=begun_ms, epoch=epoch)
                else:
                    self._failed(instance, delivery, answer, epoch)
        finally:
            account.end_work(instance.key, self._ports.clock.now_s())
            self._ports.pool.end(instance, busy_s, gone=gone, requests=len(deliveries))

    def _failed(self, instance: Instance, delivery: Delivery, error: ServingError, epoch: int) -> None:
        if isinstance(error, OutOfMemoryError):
            self._ports.report("worker.out_of_memory", instance.gpu, str(error))
        if isinstance(error, OutOfMemoryError | InvalidInputError):
            self._answering.end(delivery, Ending(Outcome.FAILED, str(error)), epoch=epoch)
        elif (ending := ending_after_failure(delivery.times_delivered, str(error))) is not None:
            self._answering.end(delivery, ending, epoch=epoch)
        else:
            # Its worker died under it: whichever instance is next tries it.
            self._again(msgspec.structs.replace(delivery, times_delivered=delivery.times_delivered + 1))
