"""The request generator: open loop by default, latency from the due time, every request accounted for.

In an open loop arrivals do not wait for anything: a request that cannot be sent in time is still due when it was due.
A closed loop (`concurrency` above 0) sends the next request of a user when the one before has ended, and says so.
Each request ends in exactly one outcome of `ProducerOutcome`; replies beyond the first are counted as duplicates.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random

from prometheus_client.core import Metric

from clover.agents.backoff import Backoff
from clover.agents.generator_settings import GeneratorSettings
from clover.agents.lifetime import until_stopped
from clover.agents.outcomes import Outstanding
from clover.agents.producer_log import ProducerLog
from clover.agents.producer_metrics import ProducerTally
from clover.agents.readiness import wait_until_serving
from clover.agents.receiving import Receiver
from clover.agents.request_making import RequestMaker
from clover.agents.schedule import Schedule, poisson_times_s
from clover.agents.sending import Sender
from clover.bus.messages import PlanRecord, RequestRecord
from clover.bus.port import Bus
from clover.core.clock import Clock
from clover.core.outcome import ProducerOutcome
from clover.core.schedule import Traits
from clover.errors import BusUnavailableError

#: How long the server may be away at the end, before what was not written is given up.
LAST_WORDS_S = 30.0

_logger = logging.getLogger("clover.generator")


class Generator:
    """Sends requests and keeps account of them.

    Args:
        settings: Name, rate, duration.
        bus, clock: Ports.
        rng: Source of arrivals and ids.
        inputs: (content type, payload) of what is asked, used in turn; empty payload for simulated applications.
        times_s: When requests are due, in seconds from the beginning; None for Poisson arrivals at the rate.
        traits: Gives what each request asks for beside an answer.
        ended: Takes in the record of every request that has ended.
    """

    def __init__(
        self,
        settings: GeneratorSettings,
        *,
        bus: Bus,
        clock: Clock,
        rng: Random,
        inputs: Sequence[tuple[str, bytes]] = (("application/octet-stream", b""),),
        times_s: Iterator[float] | None = None,
        traits: Callable[[], Traits] = Traits,
        ended: Callable[[RequestRecord], None] = lambda _record: None,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._requests = RequestMaker(settings.application, settings.name, inputs=inputs, traits=traits, rng=rng)
        self._told = ended
        self._schedule = Schedule(
            clock,
            times_s=poisson_times_s(settings.rate_rps, rng) if times_s is None else times_s,
            begin_ms=settings.begin_ms,
            warmup_s=settings.warmup_s,
            duration_s=settings.duration_s,
            count=settings.count,
        )
        self._plan: PlanRecord | None = None
        self._made_ms = clock.now_ms()
        self._all_done = asyncio.Event()
        self._sent = 0
        self._ended: Counter[ProducerOutcome] = Counter()
        self._outstanding = Outstanding()
        self._log = ProducerLog(
            settings.name, bus=bus, clock=clock, rng=rng, totals=lambda: (self._sent, self._outstanding.duplicates)
        )
        self._sender = Sender(
            bus=bus,
            clock=clock,
            rng=rng,
            outstanding=self._outstanding,
            bound=lambda: self._require_plan().admission_bound,
            end=self._end,
        )
        self._receiver = Receiver(
            settings.name,
            bus=bus,
            clock=clock,
            rng=rng,
            outstanding=self._outstanding,
            plan=self._require_plan,
            ended=self._record,
        )
        #: What its metrics are made of.
        self.tally = ProducerTally()
        #: Set when the last request has ended and its record is written.
        self.finished = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Wait until the service is ready, generate (until `stop` at most), wait for the last answer."""
        ready = await wait_until_serving(
            self._bus,
            seen_after_ms=self._made_ms,
            block_s=min(1.0, self._settings.block_s),
            backoff=Backoff(self._rng),
            stop=stop,
        )
        if ready is None:
            return
        self._plan = ready
        await until_stopped(stop, self._log.say("generator.started", self._what(), self._figures() | self._began()))
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._sender.run(), name="send"),
                group.create_task(self._sender.watch(self._settings.watch_s), name="watch"),
                group.create_task(self._receiver.run(block_s=self._settings.block_s), name="receive"),
                group.create_task(self._receiver.sweep(self._end), name="sweep"),
                group.create_task(self._log.write_regularly(self._settings.flush_s), name="write"),
                group.create_task(self._follow_plan(), name="plan"),
            ]
            await self._schedule.run(stop, self._make_due, users=self._settings.concurrency)
            await self._wait_for_the_last()
            for helper in helpers:
                helper.cancel()
        await self._say_last()
        self.finished.set()

    async def _say_last(self) -> None:
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._log.write_all()
                await self._log.say("generator.finished", f"{self._sent} requests", self._figures() | self._measured())
        except TimeoutError:
            _logger.error("the server was away at the end: %d records are not written", self._log.held)  # noqa: TRY400

    @property
    def begun_ms(self) -> float | None:
        """When the first request could be due; None before that."""
        return self._schedule.begun_ms

    @property
    def duplicates(self) -> int:
        """Replies beyond the first."""
        return self._outstanding.duplicates

    @property
    def resent(self) -> int:
        """Requests that were sent again because the server had lost them."""
        return self._sender.resent

    def counts(self) -> dict[str, int]:
        """Return how many requests were sent and how they ended so far."""
        ended = {outcome.value: self._ended[outcome] for outcome in ProducerOutcome}
        return {"sent": self._sent, **ended, "duplicate": self._outstanding.duplicates}

    def metrics(self) -> list[Metric]:
        """Return what Prometheus is told of this producer."""
        sla_ms = self._plan.sla_p95_ms if self._plan is not None else None
        return self.tally.metrics(
            self._settings.application, self.counts(), outstanding=self._outstanding.count, sla_p95_ms=sla_ms
        )

    # --- plan

    async def _follow_plan(self) -> None:
        """Keep deadline and admission bound as the newest plan says."""
        while True:
            await asyncio.sleep(self._settings.block_s)
            try:
                self._plan = await self._bus.plan() or self._plan
                await self._bus.beat(f"generator:{self._settings.name}")
            except BusUnavailableError:
                continue

    def _require_plan(self) -> PlanRecord:
        if self._plan is None:
            raise AssertionError("nothing is sent before there is a plan")
        return self._plan

    # --- sending

    def _make_due(self, due_ms: float) -> None:
        request = self._requests.make(due_ms, self._require_plan().deadline_s)
        self._sent += 1
        self._outstanding.add(request, made_ms=self._clock.now_ms())
        self._sender.put(request)

    # --- recording

    async def _wait_for_the_last(self) -> None:
        while self._outstanding.count:
            self._all_done.clear()
            await self._all_done.wait()

    def _end(self, request_id: str, outcome: ProducerOutcome, reason: str) -> None:
        record = self._outstanding.end(request_id, outcome, reason=reason)
        if record is not None:
            self._record(record)

    def _record(self, record: RequestRecord) -> None:
        self._log.add(record)
        self._ended[record.outcome] += 1
        self.tally.take(record)
        self._told(record)
        self._schedule.one_ended()
        if self._outstanding.count == 0:
            self._all_done.set()

    def _what(self) -> str:
        closed = self._settings.concurrency > 0
        return self._settings.arrivals if closed else f"{self._settings.rate_rps:g} requests/s"

    def _figures(self) -> dict[str, object]:
        return {
            "rate_rps": None if self._settings.concurrency else self._settings.rate_rps,
            "sent": self._sent,
            "duplicates": self._outstanding.duplicates,
            "resent_after_loss": self._sender.resent,
            "unwritten_records": self._log.unwritten,
            "arrivals": self._settings.arrivals,
        }

    def _began(self) -> dict[str, object]:
        """Return when the schedule's time is 0: who knows the load in advance cannot know otherwise."""
        begin_ms = self._settings.begin_ms
        now_ms = self._clock.now_ms() if begin_ms is None else begin_ms
        return {"schedule_began_ms": now_ms - 1e3 * self._settings.left_out_s}

    def _measured(self) -> dict[str, object]:
        """Return from when on requests are no warm-up any more; readers of the log cannot know otherwise."""
        begun_ms = self._schedule.begun_ms
        return {"counted_from_ms": None if begun_ms is None else begun_ms + 1e3 * self._settings.warmup_s}
