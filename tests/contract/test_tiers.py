"""Requests that ask for an accuracy, on every bus: apart from the others, and only to who can answer them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from support import FAR_MS, a_plan, a_request, done

from clover.bus.key_names import Keys
from clover.bus.messages import Request, Tier
from clover.bus.port import Bus
from clover.bus.values import Admission, Delivery

Test = Callable[[Bus], Coroutine[Any, Any, None]]
Check = Callable[[Test], None]

TIERS = (Tier(accuracy_pct=70.0, bound=100), Tier(accuracy_pct=80.0, bound=3), Tier(accuracy_pct=84.5, bound=2))


def planned(test: Test) -> Test:
    """Run a test on a bus with a plan that holds the tiers."""

    async def with_plan(bus: Bus) -> None:
        await plan_with(bus, TIERS)
        await test(bus)

    return with_plan


async def plan_with(bus: Bus, tiers: Sequence[Tier]) -> None:
    assert await bus.acquire_lease("c1", ttl_s=60)
    assert await bus.publish_plan("c1", a_plan(tiers=tuple(tiers)), []) is not None


_number = itertools.count()


def asking(least: float | None, **changes: Any) -> Request:
    return a_request(f"r{next(_number)}", min_accuracy=least, **changes)


def accuracies(deliveries: Sequence[Delivery]) -> list[float | None]:
    return [delivery.request.min_accuracy for delivery in deliveries]


def test_each_tier_has_a_stream_read_strictest_first(check: Check) -> None:
    async def test(bus: Bus) -> None:
        requests = [asking(None), asking(75.0), asking(70.0), asking(84.5), asking(80.0), asking(None, priority="high")]
        assert await bus.admit(requests, bound=100) == [Admission.ADMITTED] * 6
        taken = await bus.pull("c1", count=10, block_s=1, tiers={2: 10, 3: 10})
        assert accuracies(taken) == [None, 84.5, 75.0, 80.0, None, 70.0]
        keys = Keys(bus.deployment)
        assert [one.stream for one in taken] == [
            keys.requests_high, keys.tier(3), keys.tier(2), keys.tier(2), keys.requests, keys.requests,
        ]  # fmt: skip

    check(planned(test))


def test_who_cannot_answer_a_tier_is_given_the_others(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([asking(84.0), asking(76.0), asking(None)], bound=100)
        assert accuracies(await bus.pull("small", count=5, block_s=1)) == [None]
        assert await bus.pull("small", count=5, block_s=0) == []
        assert accuracies(await bus.pull("middle", count=5, block_s=1, tiers={2: 5})) == [76.0]
        assert accuracies(await bus.pull("large", count=5, block_s=1, tiers={2: 5, 3: 1})) == [84.0]

    check(planned(test))


def test_a_tier_is_given_no_more_than_its_limit_together_with_stricter_ones(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([asking(84.0), asking(75.0), asking(75.0), asking(None, priority="high")], bound=100)
        await bus.pull("other", count=1, block_s=1)
        taken = await bus.pull("c1", count=4, block_s=1, tiers={2: 2, 3: 1})
        assert accuracies(taken) == [84.0, 75.0]
        assert accuracies(await bus.pull("c1", count=4, block_s=1, tiers={2: 2, 3: 1})) == [75.0]

    check(planned(test))


def test_a_plan_that_does_not_hold_a_tier_refuses_it_at_the_door(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await plan_with(bus, [TIERS[0], TIERS[1], Tier(accuracy_pct=84.5, bound=0)])
        refused = asking(84.0)
        answers = await bus.admit([refused, asking(80.0), asking(99.0), asking(None)], bound=100)
        assert answers == [Admission.UNMET, Admission.ADMITTED, Admission.UNMET, Admission.ADMITTED]
        assert await bus.known([refused.id]) == [False]
        await plan_with(bus, TIERS)
        assert await bus.admit([refused], bound=100) == [Admission.ADMITTED]
        assert await bus.admit([refused], bound=100) == [Admission.DUPLICATE]

    check(planned(test))


def test_the_plan_record_alone_changes_the_tiers_as_well(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.update_plan("c1", a_plan(tiers=(TIERS[0], Tier(accuracy_pct=80.0, bound=0))))
        assert await bus.admit([asking(75.0)], bound=100) == [Admission.UNMET]

    check(planned(test))


def test_a_tier_has_a_bound_of_its_own_that_stricter_requests_count_against(check: Check) -> None:
    async def test(bus: Bus) -> None:
        answers = await bus.admit([asking(84.0), asking(84.0), asking(84.0), asking(75.0), asking(75.0)], bound=100)
        assert answers == [Admission.ADMITTED] * 2 + [Admission.FULL, Admission.ADMITTED, Admission.FULL]
        assert await bus.admit([asking(None)], bound=3) == [Admission.FULL]
        assert await bus.admit([asking(None)], bound=4) == [Admission.ADMITTED]

    check(planned(test))


def test_a_waiting_reader_is_given_its_tiers_only(check: Check) -> None:
    async def test(bus: Bus) -> None:
        small = asyncio.ensure_future(bus.pull("small", count=2, block_s=10))
        await asyncio.sleep(0.05)
        large = asyncio.ensure_future(bus.pull("large", count=2, block_s=10, tiers={2: 1, 3: 1}))
        await asyncio.sleep(0.05)
        await bus.admit([asking(84.0)], bound=100)
        assert accuracies(await large) == [84.0]
        await bus.admit([asking(None)], bound=100)
        assert accuracies(await small) == [None]

    check(planned(test))


def test_a_waiting_reader_is_woken_when_it_can_answer_more(check: Check) -> None:
    async def test(bus: Bus) -> None:
        pulling = asyncio.ensure_future(bus.pull("c1", count=2, block_s=0.9))
        await asyncio.sleep(0.1)
        await bus.admit([asking(84.0)], bound=100)
        begun = asyncio.get_running_loop().time()
        await bus.wake("c1")
        assert await pulling == []
        assert asyncio.get_running_loop().time() - begun < 0.5
        assert accuracies(await bus.pull("c1", count=2, block_s=1, tiers={3: 1})) == [84.0]
        await bus.wake("c1")  # nothing waits: no harm
        await bus.admit([asking(None)], bound=100)
        assert accuracies(await bus.pull("c1", count=2, block_s=1)) == [None]

    check(planned(test))


def test_what_is_handed_back_goes_to_who_can_answer_it(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([asking(84.0), asking(75.0), asking(75.0)], bound=100)
        taken = await bus.pull("c1", count=5, block_s=1, tiers={2: 5, 3: 5})
        await bus.hand_back("c1", taken)
        assert (await bus.claim("small", min_idle_s=30, count=5, tiers={})).deliveries == []
        assert accuracies((await bus.claim("c2", min_idle_s=30, count=5, tiers={2: 1})).deliveries) == [75.0]
        rest = await bus.claim("c3", min_idle_s=30, count=5)
        assert accuracies(rest.deliveries) == [84.0, 75.0]
        assert await bus.finish([done(one) for one in rest.deliveries]) == [True, True]
        assert await bus.leave("c2") == 1

    check(planned(test))


def test_the_sweeper_ends_what_no_instance_answers(check: Check) -> None:
    async def test(bus: Bus) -> None:
        late = asking(84.0, deadline_ms=time.time() * 1e3 - 5000.0)
        await bus.admit([late, asking(75.0, deadline_ms=FAR_MS)], bound=100)
        assert (await bus.sweep(grace_s=0.5)).expired == [late.id]
        [reply], _ = await bus.replies("generator", "0", block_s=1)
        assert (reply.id, reply.outcome) == (late.id, "expired")
        assert (await bus.queue()).waiting == 1

    check(planned(test))


def test_one_who_serves_all_tiers_keeps_a_place_for_each(check: Check) -> None:
    async def test(bus: Bus) -> None:
        """A request that no idle instance can answer does not keep those behind it from being read."""
        await bus.admit([asking(84.0), asking(84.0), asking(None), asking(None)], bound=100)
        first = await bus.pull("c1", count=3, block_s=1, tiers={2: 1, 3: 1})
        assert accuracies(first) == [84.0, None, None]

    check(planned(test))
