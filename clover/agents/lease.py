"""The lease under which one controller acts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

from clover.agents.backoff import Backoff
from clover.bus.port import Bus
from clover.errors import BusUnavailableError

_log = logging.getLogger("clover.controller")


class LeaseLostError(Exception):
    """Another controller has taken over; this one becomes a standby."""


class Lease:
    """Wins, holds and gives back the lease.

    Args:
        holder: Unique among controllers.
        bus: Port.
        ttl_s: After this long without a sign of life a standby may take over.
        rng: Of jitter.
    """

    def __init__(self, holder: str, *, bus: Bus, ttl_s: float, rng: Random) -> None:
        self._holder = holder
        self._bus = bus
        self._ttl_s = ttl_s
        self._rng = rng

    async def win(self) -> None:
        """Wait until the lease is ours."""
        backoff = Backoff(self._rng)
        while True:
            try:
                await self._bus.beat(f"controller:{self._holder}")
                if await self._bus.acquire_lease(self._holder, ttl_s=self._ttl_s):
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
            if not await self._bus.acquire_lease(self._holder, ttl_s=self._ttl_s):
                raise LeaseLostError
            await self._bus.beat(f"controller:{self._holder}")
            epoch = written()
            if epoch is not None and await self._bus.plan() is None:
                _log.error("the server has lost the plan of epoch %d; deciding anew", epoch)
                raise LeaseLostError

    async def give_back(self) -> None:
        """Let a standby take over at once."""
        try:
            await self._bus.release_lease(self._holder)
        except BusUnavailableError:
            return  # it runs out by itself
