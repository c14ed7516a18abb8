"""Puts down what an agent does on the bus: wrappers of a bus that write the history as the calls pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from clover.bus.messages import Message, PlanRecord, Reply, Request, RequestLog, Target
from clover.bus.port import Bus
from clover.bus.values import Admission, Completion, Feed
from clover.sim.faults.history import (
    Acted,
    AdmissionEnded,
    Applied,
    Ended,
    Finished,
    History,
    Invoked,
    LeaseTaken,
    ReplySeen,
    now_ms,
)


class Interposed:
    """A bus that passes everything on; subclasses change single calls. See `as_bus`."""

    def __init__(self, inner: Bus) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def as_bus(interposed: Interposed) -> Bus:
    """Return an interposed bus as what it is: calls that it does not define are those of the bus inside."""
    return cast("Bus", interposed)


class RecordingBus(Interposed):
    """Writes the history of whatever agent uses it: a producer, a node, a controller.

    Args:
        inner: The bus.
        history: Where to.
        wall_ms: Wall time, which must be that of all other records.
        skew_ms: How far the agent's own clock is ahead of it at present.
    """

    def __init__(
        self,
        inner: Bus,
        history: History,
        *,
        wall_ms: Callable[[], float] = now_ms,
        skew_ms: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(inner)
        self._history = history
        self._wall_ms = wall_ms
        self._skew_ms = skew_ms
        self._open: set[str] = set()

    # --- producers

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        """See `clover.bus.port.Bus`."""
        self._history.write(self._invocations(requests))
        try:
            answers = await self._inner.admit(requests, bound=bound)
        except BaseException:
            self._ended_admissions((request.id, "unknown") for request in requests)
            raise
        results = ["fail" if answer in {Admission.FULL, Admission.UNMET} else "ok" for answer in answers]
        self._ended_admissions(zip((request.id for request in requests), results, strict=True))
        return answers

    def _invocations(self, requests: Sequence[Request]) -> list[Invoked]:
        at_ms, skew_ms = self._wall_ms(), self._skew_ms()
        fresh = [request for request in requests if request.id not in self._open]
        self._open.update(request.id for request in fresh)
        return [
            Invoked(
                at_ms=at_ms,
                id=request.id,
                producer=request.reply_to,
                due_ms=request.due_ms - skew_ms,
                deadline_ms=request.deadline_ms - skew_ms,
            )
            for request in fresh
        ]

    def _ended_admissions(self, results: Iterable[tuple[str, Any]]) -> None:
        at_ms = self._wall_ms()
        self._history.write([AdmissionEnded(at_ms=at_ms, id=one, result=result) for one, result in results])

    async def replies(self, producer: str, after: str, *, block_s: float) -> tuple[list[Reply], str]:
        """See `clover.bus.port.Bus`."""
        replies, cursor = await self._inner.replies(producer, after, block_s=block_s)
        at_ms = self._wall_ms()
        self._history.write(
            [ReplySeen(at_ms=at_ms, id=r.id, by="producer", outcome=r.outcome, node=r.node) for r in replies]
        )
        return replies, cursor

    async def publish(self, feed: Feed, messages: Sequence[Message]) -> None:
        """See `clover.bus.port.Bus`; records of finished requests are outcomes."""
        at_ms = self._wall_ms()
        for message in messages:
            if isinstance(message, RequestLog):
                self._history.write(self._outcomes(message, at_ms))
        await self._inner.publish(feed, messages)

    def _outcomes(self, log: RequestLog, at_ms: float) -> list[Ended]:
        # A batch whose writing failed is written again: the outcome was recorded when it was made.
        ended = [record for record in log.records if record.id in self._open]
        self._open.difference_update(record.id for record in ended)
        return [Ended(at_ms=at_ms, id=one.id, outcome=one.outcome, reason=one.reason) for one in ended]

    # --- nodes

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """See `clover.bus.port.Bus`."""
        first = await self._inner.finish(completions)
        at_ms = self._wall_ms()
        self._history.write(
            [
                Finished(at_ms=at_ms, id=done.delivery.request.id, node=done.reply.node, first=one)
                for done, one in zip(completions, first, strict=True)
            ]
        )
        return first

    async def next_target(self, node: str, *, after_epoch: int, block_s: float) -> Target | None:
        """See `clover.bus.port.Bus`."""
        target = await self._inner.next_target(node, after_epoch=after_epoch, block_s=block_s)
        if target is not None:
            self._history.write([Applied(at_ms=self._wall_ms(), node=f"{node}/{id(self)}", epoch=target.epoch)])
        return target

    # --- controllers

    async def acquire_lease(self, holder: str, *, ttl_s: float) -> bool:
        """See `clover.bus.port.Bus`."""
        asked_ms = self._wall_ms()
        taken = await self._inner.acquire_lease(holder, ttl_s=ttl_s)
        if taken:
            until_ms = asked_ms + ttl_s * 1e3
            self._history.write([LeaseTaken(at_ms=self._wall_ms(), holder=holder, until_ms=until_ms)])
        return taken

    async def release_lease(self, holder: str) -> None:
        """See `clover.bus.port.Bus`."""
        # Before the call: from here on nothing is sure.
        at_ms = self._wall_ms()
        self._history.write([LeaseTaken(at_ms=at_ms, holder=holder, until_ms=at_ms)])
        await self._inner.release_lease(holder)

    async def publish_plan(
        self, holder: str, plan: PlanRecord, targets: Sequence[Target], *, above: int = 0
    ) -> int | None:
        """See `clover.bus.port.Bus`."""
        asked_ms = self._wall_ms()
        epoch = await self._inner.publish_plan(holder, plan, targets, above=above)
        if epoch is not None:
            self._history.write([Acted(at_ms=self._wall_ms(), asked_ms=asked_ms, holder=holder, epoch=epoch)])
        return epoch
