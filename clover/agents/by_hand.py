"""One node controlled by hand: the way of an order past the controller, and until it is in force.

Without an acting controller anybody may send a node a target. With one it would be replaced by the next plan, so the
controller must be paused, or must have been told to leave the node alone (`take`), which it confirms by an event.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Iterable

import msgspec

from clover.agents.lease import name_of
from clover.agents.orders import Order, Sent, listed, target_of
from clover.bus.messages import Event, NodeTelemetry
from clover.bus.port import Bus
from clover.bus.values import Feed
from clover.core.clock import Clock
from clover.errors import ConfigurationError, NodeError, NotReadyError

#: Longest wait for news in one call, s.
_BLOCK_S = 1.0
_SETTLED = {"serving", "parked", "off"}


class ByHand:
    """Sends orders to one node of a deployment.

    Args:
        bus, clock: Ports.
        node: Its name.
        wait_s: Longest wait for the node, or the controller, to do what was asked.
    """

    def __init__(self, bus: Bus, clock: Clock, node: str, *, wait_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._node = node
        self._wait_s = wait_s

    async def telemetry(self) -> NodeTelemetry:
        """Return the node's last telemetry; `NodeError` if it has not been heard of lately."""
        states = await self._bus.node_states()
        if self._node not in states:
            raise NodeError(f"node {self._node!r} is not heard of, expected one of {listed(sorted(states))}")
        return states[self._node]

    async def take(self) -> None:
        """Tell the controller to leave the node alone, and wait until it says so.

        Raises:
            NotReadyError: A controller holds the lease and has not confirmed it in time.
        """
        await self._mark(taken=True)

    async def release(self) -> None:
        """Give the node back to the controller, and wait until it says so if there is one."""
        await self._mark(taken=False)

    async def allowed(self) -> None:
        """Raise `ConfigurationError` while a controller acts that would replace what is sent."""
        holder, override = await self._bus.lease_holder(), await self._bus.override()
        if holder and not override.paused and self._node not in override.nodes:
            raise ConfigurationError(
                f"node {self._node!r}: controller {name_of(holder)!r} acts and would replace what is sent by hand",
                hint="take the node with --take (give it back with `clover node release`), or pause the controller",
            )

    async def send(self, order: Order, gpus: Iterable[int] | None, *, what: str) -> Sent:
        """Send the target that an order means."""
        node = await self.telemetry()
        newest = await self._bus.target(self._node)
        if newest is not None and await self._refusal(newest.epoch):
            newest = None
        reason = f"by hand ({_whoami()}): {what}"
        sent = target_of(node, newest, order, gpus, reason=reason)
        epoch = await self._bus.send_by_hand(sent.target, above=node.epoch)
        await self._say("node.by_hand", reason, epoch)
        return Sent(target=msgspec.structs.replace(sent.target, epoch=epoch), changed=sent.changed)

    async def in_force(self, sent: Sent, *, idle: bool = False) -> NodeTelemetry:
        """Wait until the node's telemetry shows a target in force; with `idle` also until no request is in work.

        Raises:
            NodeError: The node refuses it, or somebody else's target came after it.
            NotReadyError: It was not in force in time; what the GPUs are doing is told.
        """
        cursor = "0"
        seen = await self.telemetry()
        try:
            async with asyncio.timeout(self._wait_s):
                while not _reached(seen, sent, idle=idle):
                    await self._check(seen, sent)
                    cursor = await self._bus.newest_id(Feed.TELEMETRY) if cursor == "0" else cursor
                    for entry in await self._bus.follow({Feed.TELEMETRY: cursor}, block_s=_BLOCK_S):
                        cursor = entry.id
                        if isinstance(entry.message, NodeTelemetry) and entry.message.node == self._node:
                            seen = entry.message
        except TimeoutError:
            raise NotReadyError(
                f"{self._node}: epoch {sent.target.epoch} was not in force within {self._wait_s:g} s: {_phases(seen)}",
                hint="`clover events` tells why; the target stays",
            ) from None
        return seen

    async def _check(self, seen: NodeTelemetry, sent: Sent) -> None:
        if seen.epoch > sent.target.epoch:
            newer = await self._bus.target(self._node)
            told = f": {newer.reason}" if newer is not None else ""
            raise NodeError(f"{self._node}: epoch {seen.epoch} came after {sent.target.epoch} and replaced it{told}")
        if seen.epoch == sent.target.epoch and (refused := await self._refusal(sent.target.epoch)):
            raise NodeError(f"{self._node} refuses the target: {refused}")

    async def _refusal(self, epoch: int) -> str:
        """Return why the node has refused a target; empty if it has not (yet)."""
        cursor = "0"
        while entries := await self._bus.follow({Feed.EVENTS: cursor}, block_s=0.0):
            for entry in entries:
                cursor, event = entry.id, entry.message
                if isinstance(event, Event) and event.kind == "target.refused" and event.epoch == epoch:
                    return event.reason
        return ""

    # --- override

    async def _mark(self, *, taken: bool) -> None:
        before = await self._bus.override()
        if (self._node in before.nodes) is taken:
            return
        nodes = {*before.nodes, self._node} if taken else set(before.nodes) - {self._node}
        cursor = await self._bus.newest_id(Feed.EVENTS)
        await self._bus.set_override(
            msgspec.structs.replace(before, nodes=tuple(sorted(nodes)), by=_whoami(), at_ms=self._clock.now_ms())
        )
        if await self._bus.lease_holder():
            await self._confirmed("node.taken" if taken else "node.released", cursor)

    async def _confirmed(self, kind: str, cursor: str) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                while True:
                    for entry in await self._bus.follow({Feed.EVENTS: cursor}, block_s=_BLOCK_S):
                        cursor, event = entry.id, entry.message
                        if isinstance(event, Event) and event.kind == kind and event.subject == self._node:
                            return
        except TimeoutError:
            raise NotReadyError(f"no controller has said {kind} of {self._node} within {self._wait_s:g} s") from None

    async def _say(self, kind: str, reason: str, epoch: int) -> None:
        event = Event(
            at_ms=self._clock.now_ms(), kind=kind, source="operator", subject=self._node, reason=reason, epoch=epoch
        )
        await self._bus.publish(Feed.EVENTS, [event])


def _reached(seen: NodeTelemetry, sent: Sent, *, idle: bool) -> bool:
    gpus = [gpu for gpu in seen.gpus if gpu.index in sent.changed]
    settled = all(gpu.applied_epoch >= sent.target.epoch and gpu.phase in _SETTLED for gpu in gpus)
    return seen.epoch == sent.target.epoch and settled and not (idle and seen.in_flight)


def _phases(seen: NodeTelemetry) -> str:
    return "; ".join(f"gpu{gpu.index} {gpu.phase} ({gpu.reason})" for gpu in seen.gpus)


def _whoami() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()
