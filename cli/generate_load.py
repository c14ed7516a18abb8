"""One load of `clover generate`: its generators, here or in processes of their own, and the server they need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clover.agents.load_fleet import LoadResult, run_here, run_processes
from clover.agents.load_process import inputs_of
from clover.errors import BusError, BusUnavailableError

if TYPE_CHECKING:
    from clover.agents.load_order import LoadOrder
    from clover.bus.port import Bus
    from clover.core.clock import Clock
    from clover.core.tally import Tally

#: A server that has been away for so long ends the load; it is asked so often.
AWAY_S = 30.0
_PING_S = 2.0


class LoadSender:
    """Sends what load orders ask for.

    Args:
        bus: Of the deployment; its server is watched meanwhile.
        url: Of that server, for processes.
        processes: How many generators share a load; one runs here.
        clock: Of the generator that runs here.
        stop: Ends sending; requests in work are finished.
    """

    def __init__(self, bus: Bus, *, url: str, processes: int, clock: Clock, stop: asyncio.Event) -> None:
        self._bus = bus
        self._url = url
        self._processes = processes
        self._clock = clock
        self._stop = stop

    async def send(self, order: LoadOrder, progress: Callable[[Tally], bool]) -> LoadResult:
        """Run the generators of one load test.

        Args:
            order: What to send.
            progress: Hears the account so far; true ends the sending.

        Raises:
            BusError: The server has been away for too long.
        """
        own_stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self._generate(order, own_stop, progress))
            watching = group.create_task(self._watch_server())
            stopping = group.create_task(self._stop.wait())
            stopping.add_done_callback(lambda task: None if task.cancelled() else own_stop.set())
            await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            watching.cancel()
        return running.result()

    async def _generate(self, order: LoadOrder, stop: asyncio.Event, progress: Callable[[Tally], bool]) -> LoadResult:
        if self._processes == 1:
            inputs = inputs_of(order)
            return await run_here(order, bus=self._bus, clock=self._clock, inputs=inputs, stop=stop, progress=progress)
        parts = order.parts(self._processes)
        if order.requests_file is not None:
            parts = [
                changed_order(part, requests_file=order.requests_file.replace(".jsonl", f"-{part.index + 1}.jsonl"))
                for part in parts
            ]
        return await run_processes(parts, url=self._url, stop=stop, progress=progress)

    async def _watch_server(self) -> None:
        """End the load when the server has been away for so long that nobody can be waiting for it any more."""
        away_s = 0.0
        while True:
            await asyncio.sleep(_PING_S)
            try:
                await self._bus.ping()
                away_s = 0.0
            except BusUnavailableError as error:
                away_s += _PING_S
                if away_s >= AWAY_S:
                    raise BusError(f"the server has been away for {AWAY_S:g} s: {error}") from error


def changed_order(order: LoadOrder, **changes: Any) -> LoadOrder:
    """Return an order with some fields changed."""
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(order, **changes)
