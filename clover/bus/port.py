"""What an agent may ask of the bus: one contract suite for the in-process bus and the one on Redis streams.

Every method may raise `BusUnavailableError` (try again; nothing is known about whether a write happened) and is bounded
in time by the implementation. Reading never loses anything: a pull that was cancelled or timed out leaves its entries
in the caller's pending list, which `own_pending` gives back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from clover.bus.messages import (
    LedgerCheckpoint,
    Message,
    NodeTelemetry,
    Override,
    PlanRecord,
    Reply,
    Request,
    Target,
)
from clover.bus.values import (
    ALL_TIERS,
    NO_TIERS,
    Admission,
    Claimed,
    Completion,
    Delivery,
    Entry,
    Feed,
    FeedExtent,
    QueueStatus,
    Swept,
)


class Bus(Protocol):
    """The bus of one deployment."""

    @property
    def deployment(self) -> str:
        """Name of the deployment, the hash tag of all its keys."""
        ...

    # --- requests

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        """Append requests to the request stream, at most once per id, while fewer than `bound` are waiting.

        An id is remembered until 60 s after the request's deadline. The answer to an unknown outcome (an exception)
        is to send the same requests again: those that got through come back as `DUPLICATE`.

        A request with `min_accuracy` waits in the stream of its tier (`clover.core.tiers`), as the tiers of the plan
        in force say: `UNMET` if that plan holds no variant as accurate, `FULL` beyond the tier's own bound.
        """
        ...

    async def pull(
        self, consumer: str, *, count: int, block_s: float, tiers: Mapping[int, int] = NO_TIERS
    ) -> list[Delivery]:
        """Take up to `count` new requests, waiting at most `block_s` for the first.

        High priority goes first, then the tiers from the strictest, then the rest; each oldest first.

        Args:
            consumer: Who takes them.
            count: Most of them.
            block_s: Longest wait in seconds; 0 for none.
            tiers: For each accuracy tier (from 2) that the consumer can answer now: most requests of it and of
                stricter ones together. Tiers that are not named are left to others. (As a batch arrives at a
                server, a consumer that waited may be given a few more than that: to be handed back.)

        Entries that cannot be decoded go to the dead stream with the reason and are not returned (a malformed entry
        that still names its id and reply stream is answered `failed`).
        """
        ...

    async def wake(self, consumer: str) -> None:
        """Let a pull of this consumer that is waiting return at once, with nothing: it can answer other tiers now."""
        ...

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """Acknowledge, delete and reply, atomically per request.

        Returns:
            For each completion whether it was this call that replied; False if another consumer had already done so.
        """
        ...

    async def own_pending(self, consumer: str) -> list[Delivery]:
        """Return what was delivered to this consumer and not finished; to be compared with what is really in work."""
        ...

    async def keep_alive(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """Reset the idle time of entries in work so that nobody claims them."""
        ...

    async def claim(
        self, consumer: str, *, min_idle_s: float, count: int, tiers: Mapping[int, int] = ALL_TIERS
    ) -> Claimed:
        """Take over up to `count` entries that no consumer has touched for `min_idle_s`; `tiers` as in `pull`."""
        ...

    async def hand_back(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        """Give up entries that have not been begun: the next claim of anybody takes them, whatever its `min_idle_s`.

        The delivery does not count: `times_delivered` will be what it is now. Entries that another consumer has
        claimed meanwhile stay with it.
        """
        ...

    async def leave(self, consumer: str) -> int:
        """Hand back everything that a consumer holds and forget the consumer, in one step; return how many it held."""
        ...

    async def reap(self, *, idle_s: float) -> list[str]:
        """Forget consumers that hold nothing and were silent for `idle_s`; return their names.

        Checked and done in one step, so that nothing that is delivered meanwhile is lost. One that is forgotten by
        mistake is known again with its next pull.
        """
        ...

    async def sweep(self, *, grace_s: float, limit: int = 500) -> Swept:
        """Answer up to `limit` requests that nobody else will, each once, whoever sweeps and however often.

        Those whose deadline passed more than `grace_s` ago are answered `expired`, unread or in work; those whose
        entry is gone are answered `failed`. A consumer that finishes one of them later is told that it did not reply.
        """
        ...

    async def known(self, request_ids: Sequence[str]) -> list[bool]:
        """Return for each id whether admission remembers it.

        One that was admitted and is forgotten before its time (60 s after its deadline) tells that the server has
        lost data: sending it again is safe, and right.
        """
        ...

    async def queue(self) -> QueueStatus:
        """Return the state of the request stream."""
        ...

    # --- replies

    async def replies(self, producer: str, after: str, *, block_s: float) -> tuple[list[Reply], str]:
        """Read replies of one producer after a cursor (`0` = all that are kept), waiting at most `block_s`.

        Returns:
            The replies and the cursor to go on from.
        """
        ...

    # --- feeds

    async def publish(self, feed: Feed, messages: Sequence[Message]) -> None:
        """Append messages to a feed in one round trip; the feed's bound trims the oldest."""
        ...

    async def follow(self, cursors: Mapping[Feed, str], *, block_s: float, count: int = 1000) -> list[Entry]:
        """Read entries after the given ids (`0` = from the oldest kept), waiting at most `block_s` for the first.

        Entries of each feed come in order. Malformed entries are moved to the dead stream and left out.
        """
        ...

    async def newest_id(self, feed: Feed) -> str:
        """Return the id after which only future entries follow (`0-0` for an empty feed)."""
        ...

    async def extent(self, feed: Feed) -> FeedExtent:
        """Return what a feed keeps, so that a follower can tell whether it has missed anything."""
        ...

    # --- state

    async def publish_telemetry(self, telemetry: NodeTelemetry) -> None:
        """Append to the telemetry feed and set the node's last state, which expires after ten intervals (>= 60 s)."""
        ...

    async def node_states(self) -> dict[str, NodeTelemetry]:
        """Return the last state of every node that has not expired, by node name."""
        ...

    async def publish_carbon(self, messages: Sequence[Message], checkpoint: LedgerCheckpoint) -> None:
        """Append to the carbon feed and set the checkpoint, atomically; `carbon_now` gives the newest."""
        ...

    async def carbon_now(self) -> dict[str, Message]:
        """Return the newest `intensity` and `ledger`, as far as there are any."""
        ...

    async def checkpoint(self) -> LedgerCheckpoint | None:
        """Return what the carbon monitor last saved."""
        ...

    async def beat(self, agent: str) -> None:
        """Say that an agent is alive."""
        ...

    async def alive(self) -> dict[str, float]:
        """Return seconds since the last beat of every agent that beat within the last hour."""
        ...

    # --- control

    async def acquire_lease(self, holder: str, *, ttl_s: float) -> bool:
        """Take or extend the controller's lease; False while somebody else holds it."""
        ...

    async def release_lease(self, holder: str) -> None:
        """Give the lease back if it is still ours."""
        ...

    async def lease_holder(self) -> str:
        """Return who holds the lease (`clover.agents.lease.name_of` is its name), empty if nobody does."""
        ...

    async def override(self) -> Override:
        """Return what people have decided over the controller's head; an empty one if they have not."""
        ...

    async def set_override(self, override: Override) -> None:
        """Replace it."""
        ...

    async def send_by_hand(self, target: Target, *, above: int = 0) -> int:
        """Raise the epoch (above `above` too) and send one node its target, without lease and plan; return the epoch.

        Whether that is allowed is the caller's to ask (`lease_holder`, `override`): a controller that does not leave
        the node alone replaces the target with its next plan.
        """
        ...

    async def publish_plan(
        self, holder: str, plan: PlanRecord, targets: Sequence[Target], *, above: int = 0
    ) -> int | None:
        """Under the lease: raise the epoch, set the plan and send the targets, atomically.

        The epoch inside the given plan and targets is ignored; readers see the one returned. It is higher than any
        before, and than `above`: what nodes have already reached, in case the server has lost its count.

        Returns:
            The new epoch, or None if `holder` does not hold the lease (nothing was written).
        """
        ...

    async def update_plan(self, holder: str, plan: PlanRecord) -> bool:
        """Under the lease: replace the plan record without a new epoch (a roll is over). False without it."""
        ...

    async def plan(self) -> PlanRecord | None:
        """Return the plan in force."""
        ...

    async def target(self, node: str) -> Target | None:
        """Return the newest target of a node."""
        ...

    async def next_target(self, node: str, *, after_epoch: int, block_s: float) -> Target | None:
        """Wait at most `block_s` for a target of this node with an epoch above `after_epoch`; return the newest."""
        ...

    async def claim_name(self, node: str, holder: str, *, ttl_s: float) -> bool:
        """Take or extend the right to be the node of a name; False while somebody else has it."""
        ...

    async def release_name(self, node: str, holder: str) -> None:
        """Give the name back if it is still ours."""
        ...

    # --- lifetime

    async def ping(self) -> None:
        """Return if the server answers, raise `BusUnavailableError` otherwise."""
        ...

    async def close(self) -> None:
        """Close all connections; idempotent."""
        ...
