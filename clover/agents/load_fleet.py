"""A load test in this process or spread over several, added up while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import orjson

from clover.agents.load_order import LoadOrder
from clover.agents.load_process import TELL_S
from clover.agents.load_test import LoadTest
from clover.agents.runtime import PARENT_VARIABLE
from clover.agents.system_clock import SystemClock
from clover.bus.port import Bus
from clover.core.clock import Clock
from clover.core.tally import Tally
from clover.errors import CloverError, NotReadyError

#: All processes begin so long after the last one has said that it is ready.
_BEGIN_AFTER_S = 0.5
#: They must be ready after this long.
_READY_WITHIN_S = 60.0
#: A line holds histograms.
_LINE_BYTES = 2**24

Progress = Callable[[Tally], bool]
"""Takes in the account so far, about once a second; True ends the sending."""


@dataclass(slots=True)
class LoadResult:
    """The account of a load test, and what went wrong beside it (files that could not be written)."""

    tally: Tally
    troubles: list[str] = field(default_factory=list[str])


async def run_here(
    order: LoadOrder,
    *,
    bus: Bus,
    clock: Clock,
    inputs: Sequence[tuple[str, bytes]],
    stop: asyncio.Event,
    progress: Progress,
    block_s: float = 1.0,
    tell_s: float = TELL_S,
) -> LoadResult:
    """Run a load test in this process; `stop` ends the sending."""
    test = LoadTest(order, bus=bus, clock=clock, inputs=inputs, block_s=block_s, watch_s=tell_s)

    async def watch() -> None:
        while True:
            await asyncio.sleep(tell_s)
            if progress(test.tally()):
                stop.set()

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        tally = await test.run(stop)
        watching.cancel()
    return LoadResult(tally, [test.file.trouble] if test.file.trouble else [])


async def run_processes(
    orders: Sequence[LoadOrder], *, url: str, stop: asyncio.Event, progress: Progress
) -> LoadResult:
    """Run the parts of a load test as processes that begin together; `stop` ends their sending.

    Raises:
        CloverError: One of them could not start, or died: what is left would not be the load that was asked for.
    """
    parts = [_Part(order) for order in orders]
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            await asyncio.gather(*(part.start(url) for part in parts))
    except TimeoutError:
        await _end(parts)
        raise NotReadyError(f"generator processes were not ready within {_READY_WITHIN_S:g} s") from None
    except BaseException:
        await _end(parts)
        raise
    try:
        return await _run_parts(parts, stop, progress)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        await _end(parts)


async def _run_parts(parts: Sequence[_Part], stop: asyncio.Event, progress: Progress) -> LoadResult:
    clock_ms = _wall_ms()
    for part in parts:
        part.begin(clock_ms + _BEGIN_AFTER_S * 1e3)

    async def watch() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_S):
                    await stop.wait()
            if not stop.is_set() and progress(_sum(parts)):
                stop.set()
        for part in parts:
            part.ask_to_end()

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(part.read()) for part in parts]
        watching = group.create_task(watch())
        await asyncio.wait(reading)
        watching.cancel()
    return LoadResult(_sum(parts), [part.trouble for part in parts if part.trouble])


def _sum(parts: Sequence[_Part]) -> Tally:
    return parts[0].tally.plus(part.tally for part in parts[1:])


async def _end(parts: Sequence[_Part]) -> None:
    await asyncio.gather(*(part.end() for part in parts))


def _wall_ms() -> float:
    return SystemClock().now_ms()


class _Part:
    """One process."""

    def __init__(self, order: LoadOrder) -> None:
        self._order = order
        self._process: asyncio.subprocess.Process | None = None
        self.tally = Tally()
        self.trouble = ""

    async def start(self, url: str) -> None:
        """Start it and wait until it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "clover.agents.load_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env={**os.environ, "CLOVER_REDIS": url, PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,
        )
        self._write(msgspec.json.encode(self._order))
        self._take(await self._line())

    def begin(self, at_ms: float) -> None:
        """Tell it when to begin."""
        self._write(orjson.dumps({"begin_ms": at_ms}))

    async def read(self) -> None:
        """Take in what it tells until it is done."""
        while not self._take(await self._line()):
            pass

    def ask_to_end(self) -> None:
        """Ask it to send no more."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def end(self) -> None:
        """End it at once if it still runs, and wait for that."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    def _write(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            raise AssertionError("started with pipes")
        self._process.stdin.write(line + b"\n")

    async def _line(self) -> bytes:
        if self._process is None or self._process.stdout is None:
            raise AssertionError("started with pipes")
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            raise CloverError(f"generator process {self._order.name} ended early, exit code {code}")
        return line

    def _take(self, line: bytes) -> bool:
        told = orjson.loads(line)
        if "error" in told:
            error = CloverError(told["error"], hint=told["hint"])
            error.exit_code = told["code"]
            raise error
        if "tally" in told:
            self.tally = Tally.from_data(told["tally"])
            self.trouble = told.get("trouble", "")
        return bool(told.get("done"))
