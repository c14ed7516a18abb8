"""One generator of a load test: sends its part, counts every request, writes each to a file if asked to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from clover.agents.generator import Generator
from clover.agents.generator_settings import GeneratorSettings
from clover.agents.load_order import LoadOrder
from clover.bus.messages import RequestRecord
from clover.bus.port import Bus
from clover.core.clock import Clock
from clover.core.tally import Ended, Tally

_log = logging.getLogger("clover.load")

#: Nothing to send to applications that are simulated.
NO_INPUT: Sequence[tuple[str, bytes]] = (("application/octet-stream", b""),)


class RequestFile:
    """Takes one JSON line per request; a disk that is full ends it, not the load test."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[bytes] | None = None if path is None else path.open("xb")
        self.trouble = ""
        self._encoder = msgspec.json.Encoder()

    def write(self, record: RequestRecord, *, warmup: bool) -> None:
        """Write one request."""
        if self._file is None:
            return
        line = self._encoder.encode(msgspec.structs.asdict(record) | {"warmup": warmup}) + b"\n"
        try:
            self._file.write(line)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is held and close."""
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        name = getattr(self._file, "name", "")
        self._file = None
        self.trouble = f"{name}: {error.strerror}; the rest of the requests is not written there"
        _log.error("%s", self.trouble)


class LoadTest:
    """One generator with its account.

    Args:
        order: What to do.
        bus, clock: Ports.
        inputs: What is asked, in turn.
        begin_ms: When to begin, None for at once.
        flush_s, block_s, watch_s: As of the generator.
    """

    def __init__(
        self,
        order: LoadOrder,
        *,
        bus: Bus,
        clock: Clock,
        inputs: Sequence[tuple[str, bytes]] = NO_INPUT,
        begin_ms: float | None = None,
        block_s: float = 1.0,
        watch_s: float = 1.0,
    ) -> None:
        load, chance = order.load(), order.rng("mix")
        self._order = order
        self._tally = Tally()
        self.file = RequestFile(Path(order.requests_file) if order.requests_file else None)
        rate_rps = load.mean_rps
        self._generator = Generator(
            GeneratorSettings(
                name=order.name,
                application=order.application,
                rate_rps=1.0 if rate_rps is None else rate_rps / order.of,
                duration_s=order.duration_s,
                warmup_s=order.warmup_s,
                count=order.count,
                concurrency=load.concurrency,
                arrivals=load.description,
                begin_ms=begin_ms,
                block_s=block_s,
                watch_s=watch_s,
            ),
            bus=bus,
            clock=clock,
            rng=order.rng("generator"),
            inputs=inputs,
            times_s=order.times_s(load),
            traits=lambda: order.mix.draw(chance),
            ended=self._take,
        )

    async def run(self, stop: asyncio.Event) -> Tally:
        """Send and wait for the last answer; `stop` ends the sending. Returns the account."""
        try:
            await self._generator.run(stop)
        finally:
            self.file.close()
        return self.tally()

    def tally(self) -> Tally:
        """Return the account so far."""
        self._tally.duplicates = self._generator.duplicates
        self._tally.resent = self._generator.resent
        return self._tally

    def _take(self, record: RequestRecord) -> None:
        begun_ms = self._generator.begun_ms or 0.0
        warmup = record.due_ms < begun_ms + self._order.warmup_s * 1e3
        self.file.write(record, warmup=warmup)
        if warmup:
            self._tally.warmup += 1
            return
        self._tally.add(
            Ended(
                due_ms=record.due_ms,
                made_ms=record.due_ms + record.lag_ms,
                sent_ms=record.sent_ms,
                received_ms=record.received_ms,
                outcome=record.outcome,
                accuracy_pct=record.accuracy_pct,
                energy_j=record.energy_j,
            )
        )
