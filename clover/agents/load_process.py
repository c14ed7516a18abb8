"""One generator of a load test as a process of its own, started by the one that adds them up.

Protocol, one JSON object a line. In: the `LoadOrder`; then `{"begin_ms": ...}`. Out: `{"ready": true}`; once a second
`{"tally": ...}`; at the end `{"tally": ..., "trouble": ..., "done": true}`. SIGTERM and the end of the input stop the
sending; answers are still waited for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import orjson

from clover.agents.load_order import LoadOrder
from clover.agents.load_test import NO_INPUT, LoadTest
from clover.agents.runtime import die_with_parent
from clover.agents.system_clock import SystemClock
from clover.bus.redis import connect
from clover.errors import CloverError

#: How often the account so far is told.
TELL_S = 1.0


def main() -> int:
    """Run one generator; returns the exit code."""
    die_with_parent()
    try:
        asyncio.run(_run())
    except CloverError as error:
        _tell({"error": str(error), "hint": error.hint, "code": error.exit_code})
        return error.exit_code
    return 0


async def _run() -> None:
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = msgspec.json.decode(await reader.readline(), type=LoadOrder)
    bus = connect(os.environ["CLOVER_REDIS"], order.deployment, order.name)
    try:
        await bus.ping()
        inputs = inputs_of(order)
        _tell({"ready": True})
        line = await reader.readline()
        if not line:
            return
        test = LoadTest(order, bus=bus, clock=SystemClock(), inputs=inputs, begin_ms=orjson.loads(line)["begin_ms"])
        await _tell_while(test, reader)
    finally:
        await bus.close()


def inputs_of(order: LoadOrder) -> Any:
    """Return what requests carry; raises ConfigurationError if the application has no such inputs."""
    if order.backend == "sim":
        return NO_INPUT
    from clover.catalog import load_application  # noqa: PLC0415 - only real models need these
    from clover.serving.inputs import inputs_for  # noqa: PLC0415

    return inputs_for(load_application(order.app or order.application), Path(order.inputs) if order.inputs else None)


async def _tell_while(test: LoadTest, reader: asyncio.StreamReader) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(test.run(stop))
        helpers = [group.create_task(_stop_at_end(reader, stop)), group.create_task(_tell_regularly(test))]
        await asyncio.wait({running})
        for helper in helpers:
            helper.cancel()
    _tell({"tally": test.tally().as_data(), "trouble": test.file.trouble, "done": True})


async def _stop_at_end(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    await reader.read()
    stop.set()


async def _tell_regularly(test: LoadTest) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        _tell({"tally": test.tally().as_data()})


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
