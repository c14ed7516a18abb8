"""The lease under which one controller acts.

It is held by a process, not by a name: two controllers may be started under the same name (those of two `clover up` on
one server are), and one that is started again is another one than before.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from random import Random

from clover.agents.backoff import Backoff
from clover.bus.port import Bus
from clover.errors import BusUnavailableError

#: Characters of a UUID, which boot ids are.
BOOT_ID_LENGTH = 36

_log = logging.getLogger("clover.controller")


class LeaseLostError(Exception):
    """Another controller has taken over; this one becomes a standby."""


def holder_of(name: str, boot_id: str) -> str:
    """Return what holds the lease: a process of this name."""
    return f"{name}.{boot_id}"


def name_of(holder: str) -> str:
    """Return the name of who holds the lease, for people."""
    name, _, boot_id = holder.rpartition(".")
    return name if name and len(boot_id) == BOOT_ID_LENGTH else holder


class Lease:
    """Wins, holds and gives back the lease.

    Attributes:
        holder: Who holds it if we do.

    Args:
        name: Of the controller, for people.
        boot_id: Unique among processes.
        bus: Port.
        ttl_s: After this long without a sign of life a standby may take over.
        rng: Of jitter.
    """

    def __init__(self, name: str, boot_id: str, *, bus: Bus, ttl_s: float, rng: Random) -> None:
        self.holder = holder_of(name, boot_id)
        self._name = name
        self._bus = bus
        self._ttl_s = ttl_s
        self._rng = rng
        #: Until when it is surely ours, in the loop's time: it was extended no sooner than we asked.
        self._until_s = -math.inf

    async def win(self) -> None:
        """Wait until the lease is ours."""
        backoff = Backoff(self._rng)
        while True:
            try:
                await self._bus.beat(f"controller:{self._name}")
                if await self._acquire():
                    return
                await asyncio.sleep(self._ttl_s / 3.0)
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())

    async def hold(self, written: Callable[[], int | None]) -> None:
        """Extend the lease for ever.

        Args:
            written: Epoch of the plan that was written, None before the first.

        Raises:
            LeaseLostError: Somebody else has it, or the server has lost the plan.
        """
        while True:
            await asyncio.sleep(self._ttl_s / 3.0)
            if not await self._acquire():
                raise LeaseLostError
            await self._bus.beat(f"controller:{self._name}")
            epoch = written()
            if epoch is not None and await self._bus.plan() is None:
                _log.error("the server has lost the plan of epoch %d; deciding anew", epoch)
                raise LeaseLostError

    def check(self) -> None:
        """Make sure that the lease has not run out; what is written without a check on the server needs this.

        A process that was stopped past its lease, or whose host slept, believes old news and would tell of them.

        Raises:
            LeaseLostError: It has, whoever holds it now.
        """
        if asyncio.get_running_loop().time() >= self._until_s:
            raise LeaseLostError

    async def _acquire(self) -> bool:
        asked_s = asyncio.get_running_loop().time()
        ours = await self._bus.acquire_lease(self.holder, ttl_s=self._ttl_s)
        self._until_s = asked_s + self._ttl_s if ours else -math.inf
        return ours

    async def give_back(self) -> None:
        """Let a standby take over at once."""
        try:
            await self._bus.release_lease(self.holder)
        except BusUnavailableError:
            return  # it runs out by itself
