"""Lease, plan and targets on a server."""

from __future__ import annotations

from collections.abc import Sequence

from clover.bus import codec, envelope, scripts
from clover.bus.calls import Calls, Patience, block_args
from clover.bus.messages import Override, PlanRecord, Target


class ControlCalls(Calls):
    """The part of the bus by which one controller steers the nodes."""

    async def acquire_lease(self, holder: str, *, ttl_s: float) -> bool:
        """See `clover.bus.port.Bus`."""
        args = [holder, max(1, int(ttl_s * 1e3))]
        return await self._link.script(scripts.LEASE, [self._keys.lease], args) == 1

    async def release_lease(self, holder: str) -> None:
        """See `clover.bus.port.Bus`."""
        await self._link.script(scripts.UNLEASE, [self._keys.lease], [holder])

    async def lease_holder(self) -> str:
        """See `clover.bus.port.Bus`."""
        holder = await self._link.command("GET", self._keys.lease)
        return holder.decode(errors="replace") if holder else ""

    async def override(self) -> Override:
        """See `clover.bus.port.Bus`."""
        raw = await self._link.command("HGETALL", self._keys.override)
        return codec.decode_as(Override, raw) if raw else Override()

    async def set_override(self, override: Override) -> None:
        """See `clover.bus.port.Bus`."""
        kind, header = codec.encode(override)
        fields = ("v", envelope.VERSION, "t", kind, "d", header)
        await self._link.command("HSET", self._keys.override, *fields)

    async def send_by_hand(self, target: Target, *, above: int = 0) -> int:
        """See `clover.bus.port.Bus`."""
        keys = [self._keys.epoch, self._keys.target(target.node)]
        return await self._link.script(scripts.HAND, keys, [above, codec.encode(target)[1]])

    async def claim_name(self, node: str, holder: str, *, ttl_s: float) -> bool:
        """See `clover.bus.port.Bus`."""
        args = [holder, max(1, int(ttl_s * 1e3))]
        return await self._link.script(scripts.LEASE, [self._keys.name(node)], args) == 1

    async def release_name(self, node: str, holder: str) -> None:
        """See `clover.bus.port.Bus`."""
        await self._link.script(scripts.UNLEASE, [self._keys.name(node)], [holder])

    async def publish_plan(
        self, holder: str, plan: PlanRecord, targets: Sequence[Target], *, above: int = 0
    ) -> int | None:
        """See `clover.bus.port.Bus`."""
        keys = [self._keys.lease, self._keys.epoch, self._keys.plan]
        keys += (self._keys.target(target.node) for target in targets)
        args = [
            holder,
            above,
            codec.encode(plan)[1],
            tiers_text(plan),
            *(codec.encode(target)[1] for target in targets),
        ]
        return await self._link.script(scripts.PLAN, keys, args)

    async def update_plan(self, holder: str, plan: PlanRecord) -> bool:
        """See `clover.bus.port.Bus`."""
        keys = [self._keys.lease, self._keys.epoch, self._keys.plan]
        return await self._link.script(scripts.REPLAN, keys, [holder, codec.encode(plan)[1], tiers_text(plan)]) == 1

    async def plan(self) -> PlanRecord | None:
        """See `clover.bus.port.Bus`."""
        raw = await self._link.command("HGETALL", self._keys.plan)
        return codec.decode_as(PlanRecord, raw) if raw else None

    async def target(self, node: str) -> Target | None:
        """See `clover.bus.port.Bus`."""
        return (await self._newest(node))[0]

    async def next_target(self, node: str, *, after_epoch: int, block_s: float) -> Target | None:
        """See `clover.bus.port.Bus`."""
        patience = Patience(block_s)
        while True:
            piece_s = patience.piece_s()
            target, last_id = await self._newest(node)
            if target is not None and target.epoch > after_epoch:
                return target
            if piece_s == 0.0:
                return None
            command = ("XREAD", "COUNT", 1, *block_args(piece_s), "STREAMS", self._keys.target(node), last_id)
            if block_args(piece_s):
                await self._link.read(*command, block_s=piece_s)

    async def _newest(self, node: str) -> tuple[Target | None, str]:
        """Return the newest target that can be read, and the id after which only newer ones follow."""
        stream = self._keys.target(node)
        while True:
            entries = await self._link.command("XREVRANGE", stream, "+", "-", "COUNT", 1)
            if not entries:
                return None, "0-0"
            decoded = await self._decoded(stream, entries, lambda raw: codec.decode_as(Target, raw))
            if decoded:
                return decoded[0][1], decoded[0][0]


def tiers_text(plan: PlanRecord) -> str:
    """Return the tiers of a plan as admission reads them: accuracy and bound of each."""
    return " ".join(f"{tier.accuracy_pct!r} {tier.bound}" for tier in plan.tiers)
