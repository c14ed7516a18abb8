"""Any order of calls and failures keeps every promise on the bus in memory; a bus that breaks one is found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from protocol_machine import Protocol

from clover.bus.memory import MemoryBus
from clover.bus.messages import LedgerCheckpoint, Message, PlanRecord, Reply, Request, Target
from clover.bus.values import ALL_TIERS, Admission, Claimed, Completion, Delivery, Swept
from clover.core.outcome import Outcome

SETTINGS = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
#: To find a planted bug it need not be explained in the shortest way.
FINDING = settings(SETTINGS, max_examples=4000, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False)
#: Thousands of examples: minutes on a busy machine.
AT_LENGTH = (pytest.mark.slow, pytest.mark.timeout(600))


def test_every_promise_is_kept_in_any_order() -> None:
    run_state_machine_as_test(Protocol, settings=SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_promise_is_kept_in_any_order_at_length() -> None:
    run_state_machine_as_test(Protocol, settings=settings(SETTINGS, max_examples=1500, stateful_step_count=80))


# --- planted bugs


class NoFence(MemoryBus):
    """Replies whoever finished first."""

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        first = await super().finish(completions)
        for completion, one in zip(completions, first, strict=True):
            if not one:
                self._replies_of(completion.delivery.request.reply_to).stream.append(completion.reply, self._clock_ms())
        return first


class Forgetful(MemoryBus):
    """Does not remember ids."""

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        self._known.clear()
        self._known_until.clear()
        return await super().admit(requests, bound=bound)


class LosesClaims(MemoryBus):
    """What is claimed belongs to nobody."""

    async def claim(
        self, consumer: str, *, min_idle_s: float, count: int, tiers: Mapping[int, int] = ALL_TIERS
    ) -> Claimed:
        claimed = await super().claim(consumer, min_idle_s=min_idle_s, count=count, tiers=tiers)
        for delivery in claimed.deliveries:
            del self._queue.pending[delivery.entry_id]
        return Claimed(deliveries=[], vanished_ids=[])


class SweepsWhatIsNotDue(MemoryBus):
    """Answers requests that are held, and leaves them where they are."""

    async def sweep(self, *, grace_s: float, limit: int = 500) -> Swept:
        del grace_s, limit
        for pending in self._queue.pending.values():
            request = pending.delivery.request
            early = Reply(id=request.id, outcome=Outcome.EXPIRED)
            self._replies_of(request.reply_to).stream.append(early, self._clock_ms())
        return Swept(expired=[], vanished=[])


class DropsWhatIsHandedBack(MemoryBus):
    """Takes a hand-back for an end."""

    async def hand_back(self, consumer: str, deliveries: Sequence[Delivery]) -> None:
        del consumer
        for delivery in deliveries:
            self._queue.pending.pop(delivery.entry_id, None)


class Unbounded(MemoryBus):
    """Admits everything."""

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        return await super().admit(requests, bound=bound * 100)


class NoLease(MemoryBus):
    """Lets everyone act."""

    def _holds(self, holder: str) -> bool:
        return bool(holder)


class RewindingEpochs(MemoryBus):
    """Counts epochs anew whenever the lease changes hands."""

    async def publish_plan(
        self, holder: str, plan: PlanRecord, targets: Sequence[Target], *, above: int = 0
    ) -> int | None:
        if self._plan is not None and self._plan.controller != holder:
            self._epoch = 0
        return await super().publish_plan(holder, plan, targets, above=above)


class LosesCheckpoints(MemoryBus):
    """Forgets what the ledger had reached."""

    async def publish_carbon(self, messages: Sequence[Message], checkpoint: LedgerCheckpoint) -> None:
        await super().publish_carbon(messages, checkpoint)
        self._checkpoint = None


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (NoFence, "P1 broken"),
        (Forgetful, "P1 broken"),
        (LosesClaims, "P2 broken"),
        (SweepsWhatIsNotDue, "P1 broken"),
        pytest.param(DropsWhatIsHandedBack, "P2 broken", marks=AT_LENGTH),
        (Unbounded, "P4 broken"),
        pytest.param(NoLease, "P7 broken", marks=AT_LENGTH),
        pytest.param(RewindingEpochs, "P7 broken", marks=AT_LENGTH),
        (LosesCheckpoints, "P9 broken"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_bus_is_found_out(broken: Callable[..., Any], promise: str) -> None:
    class Machine(Protocol):
        make_bus = staticmethod(broken)  # pyright: ignore[reportAssignmentType]

    with pytest.raises(AssertionError, match=promise):
        run_state_machine_as_test(Machine, settings=FINDING)
