"""The sending half of a producer: admits what is due, again after an unknown outcome, anew after a loss of data."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.outcomes import Outstanding
from clover.bus.messages import Request
from clover.bus.port import Bus
from clover.bus.values import Admission
from clover.core.clock import Clock
from clover.core.outcome import ProducerOutcome
from clover.errors import BusUnavailableError

_log = logging.getLogger("clover.sending")

#: Most requests in one call of admission.
BATCH = 500
#: Most requests that wait to be sent while the server is away; one more is refused.
MAX_QUEUED = 100_000

FULL = "refused at the door: queue full"
NO_ROOM = f"refused by its own producer: {MAX_QUEUED} requests wait to be sent"
UNMET = "refused at the door: the present plan holds no variant of that accuracy"
NEVER_SENT = "could not be sent before its deadline: the server was away"


class Sender:
    """Sends requests in the order in which they became due, everything at hand in one call.

    After an unknown outcome the same ids are sent again; admission recognises them. Once per period it asks whether
    the server still knows the oldest request that it admitted: if not, it has lost data (a restart without its log, a
    failover, somebody's FLUSHALL), and everything without an answer is sent again. A request whose reply was lost as
    well is then computed twice, and answered once as far as its producer can see.

    Args:
        bus, clock: Ports.
        rng: Source of jitter.
        outstanding: Requests without an outcome.
        bound: Gives the present admission bound.
        end: Ends a request without a reply: id, outcome, reason.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        clock: Clock,
        rng: Random,
        outstanding: Outstanding,
        bound: Callable[[], int],
        end: Callable[[str, ProducerOutcome, str], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._outstanding = outstanding
        self._bound = bound
        self._end = end
        # Bounded: by MAX_QUEUED, see `put`.
        self._queue: deque[Request] = deque()
        #: Ids in the queue or in a call whose outcome is not known yet.
        self._unsent: set[str] = set()
        self._news = asyncio.Event()
        #: Requests sent again because the server had lost them.
        self.resent = 0

    def put(self, request: Request) -> None:
        """Take in a request that is due; beyond the bound of the queue it ends here."""
        if len(self._queue) >= MAX_QUEUED:
            self._end(request.id, ProducerOutcome.OVERLOADED, NO_ROOM)
            return
        self._queue.append(request)
        self._unsent.add(request.id)
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        backoff = Backoff(self._rng)
        while True:
            await self._news.wait()
            self._news.clear()
            while batch := self._next_batch():
                self._outstanding.sent(batch, self._clock.now_ms())
                try:
                    answers = await self._bus.admit(batch, bound=self._bound())
                except BusUnavailableError:
                    self._queue.extendleft(reversed(batch))
                    await asyncio.sleep(backoff.next_s())
                    continue
                backoff.reset()
                for request, answer in zip(batch, answers, strict=True):
                    self._unsent.discard(request.id)
                    if answer is Admission.FULL:
                        self._end(request.id, ProducerOutcome.OVERLOADED, FULL)
                    elif answer is Admission.UNMET:
                        self._end(request.id, ProducerOutcome.FAILED, f"min_accuracy {request.min_accuracy}: {UNMET}")

    def _next_batch(self) -> list[Request]:
        """Return what is to be sent next; what is too late is ended here, so that the queue cannot grow for ever."""
        batch: list[Request] = []
        now_ms = self._clock.now_ms()
        while self._queue and len(batch) < BATCH:
            request = self._queue.popleft()
            if not self._outstanding.has(request.id) or request.deadline_ms < now_ms:
                self._unsent.discard(request.id)
                self._end(request.id, ProducerOutcome.LOST, NEVER_SENT)
            else:
                batch.append(request)
        return batch

    async def watch(self, period_s: float) -> None:
        """Look once per period whether the server has lost what it had admitted; until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            oldest = next((one for one in self._outstanding.requests() if one.id not in self._unsent), None)
            if oldest is None:
                continue
            try:
                [known] = await self._bus.known([oldest.id])
            except BusUnavailableError:
                continue
            if not known:
                self._send_again(oldest)

    def _send_again(self, oldest: Request) -> None:
        if not self._outstanding.has(oldest.id):
            return
        missing = [one for one in self._outstanding.requests() if one.id not in self._unsent]
        _log.error("the server has lost data: %d requests without an answer are sent again", len(missing))
        self.resent += len(missing)
        for request in missing:
            self.put(request)
