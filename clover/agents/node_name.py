"""A node's name: held by one agent at a time, so that two nodes are never taken for one."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

from clover.agents.backoff import Backoff
from clover.agents.lifetime import happens_within
from clover.bus.port import Bus
from clover.core.clock import Clock
from clover.errors import BusUnavailableError, ConfigurationError


class NodeNameTakenError(ConfigurationError):
    """Another agent that is alive serves under this name."""


class NodeName:
    """The name of one node agent.

    Args:
        name: Of the node, unique in the deployment.
        boot_id: Of the agent that wants it.
        bus, clock: Ports.
        rng: Source of jitter.
        lease_s: The name of a node that went silent can be taken after this long.
    """

    def __init__(self, name: str, boot_id: str, *, bus: Bus, clock: Clock, rng: Random, lease_s: float) -> None:
        self._name = name
        self._boot_id = boot_id
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._lease_s = lease_s

    async def claim(self, stop: asyncio.Event) -> bool:
        """Take the name, waiting for as long as one that died may still hold it; return False if stopped meanwhile.

        Raises:
            NodeNameTakenError: Another agent keeps it.
        """
        backoff = Backoff(self._rng)
        until_s = self._clock.now_s() + 1.5 * self._lease_s
        while not stop.is_set():
            try:
                if await self._holds():
                    return True
            except BusUnavailableError:
                await happens_within(stop, backoff.next_s())
                continue
            if self._clock.now_s() >= until_s:
                raise self._taken()
            await happens_within(stop, self._lease_s / 8.0)
        return False

    async def hold(self) -> None:
        """Keep the name until cancelled.

        Raises:
            NodeNameTakenError: It was lost to another agent.
        """
        while True:
            await asyncio.sleep(self._lease_s / 3.0)
            with contextlib.suppress(BusUnavailableError):
                if not await self._holds():
                    raise self._taken()

    async def give_back(self) -> None:
        """Let others have the name at once; without a server it runs out by itself."""
        with contextlib.suppress(BusUnavailableError):
            await self._bus.release_name(self._name, self._boot_id)

    async def _holds(self) -> bool:
        return await self._bus.claim_name(self._name, self._boot_id, ttl_s=self._lease_s)

    def _taken(self) -> NodeNameTakenError:
        return NodeNameTakenError(
            f"node {self._name!r}: another agent serves under this name", hint="give each node its own: --name"
        )
