"""Where the primary is, from the sentinels that watch it, and when it is somewhere else.

A connection to a former primary goes on working until somebody stops that server, and what is written there is lost:
so a switch is heard from the sentinels, and every connection is renewed at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from clover.bus.link import Line
from clover.errors import BusUnavailableError

_log = logging.getLogger("clover.sentinel")

Place = tuple[str, int]

#: Bound of one question to one sentinel.
ASK_LIMIT_S = 1.0
#: How often the sentinels are asked even if they announce nothing.
LOOK_S = 1.0
#: Pause after no sentinel could be reached.
PAUSE_S = 0.25
_CHANNEL = "+switch-master"


class PrimaryWatcher:
    """Knows the present primary of a service.

    Args:
        sentinels: Where they are.
        service: What they call the primary.
        open_line: Connects to one of them.
        switched: Called when the primary has changed.
    """

    def __init__(
        self,
        sentinels: Sequence[Place],
        service: str,
        *,
        open_line: Callable[[Place], Awaitable[Line]],
        switched: Callable[[], Awaitable[None]],
    ) -> None:
        self._sentinels = list(sentinels)
        self._service = service
        self._open_line = open_line
        self._switched = switched
        self._primary: Place | None = None

    async def primary(self) -> Place:
        """Return where the primary is; `BusUnavailableError` if no sentinel says so."""
        if self._primary is None:
            self._primary = await self._look()
        return self._primary

    async def run(self) -> None:
        """Follow the sentinels until cancelled."""
        while True:
            for place in list(self._sentinels):
                try:
                    await self._follow(place)
                except (BusUnavailableError, TimeoutError):
                    continue
            await asyncio.sleep(PAUSE_S)

    async def _follow(self, place: Place) -> None:
        """Listen to one sentinel as long as it answers."""
        async with asyncio.timeout(ASK_LIMIT_S):
            line = await self._open_line(place)
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                await line.ask("SUBSCRIBE", _CHANNEL)
            while True:
                announced = await self._announced(line)
                await self._move_to(announced or await self._look())
        finally:
            await line.close()

    async def _announced(self, line: Line) -> Place | None:
        """Return where our primary has moved, if the sentinel says so before it is time to ask anyway."""
        try:
            async with asyncio.timeout(LOOK_S):
                while True:
                    message: list[bytes] = await line.listen()
                    words = message[2].decode().split() if message[0] == b"message" else []
                    if len(words) == 5 and words[0] == self._service:
                        return words[3], int(words[4])
        except TimeoutError:
            return None

    async def _move_to(self, place: Place) -> None:
        former, self._primary = self._primary, place
        if former is not None and former != place:
            _log.warning("the primary has moved from %s:%d to %s:%d; all connections are renewed", *former, *place)
            await self._switched()

    async def _look(self) -> Place:
        """Ask all sentinels; of different answers the one with the highest configuration epoch is the newest."""
        answers = await asyncio.gather(*(self._ask(place) for place in self._sentinels))
        known = [answer for answer in answers if answer is not None]
        if not known:
            raise BusUnavailableError(
                f"none of {len(self._sentinels)} sentinels names a primary of {self._service!r}",
                hint="Check the sentinels' addresses and the name of the service.",
            )
        return max(known)[1]

    async def _ask(self, place: Place) -> tuple[int, Place] | None:
        """Return configuration epoch and place of the primary as one sentinel sees them."""
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                line = await self._open_line(place)
                try:
                    answer: list[Any] = await line.ask("SENTINEL", "MASTER", self._service)
                finally:
                    await line.close()
        except (BusUnavailableError, TimeoutError):
            return None
        fields = dict(zip(answer[::2], answer[1::2], strict=True))
        return int(fields[b"config-epoch"]), (fields[b"ip"].decode(), int(fields[b"port"]))
