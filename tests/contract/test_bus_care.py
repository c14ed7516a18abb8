"""What every bus does with requests that need care: handed back, overdue, left behind, too many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from support import a_request, done

from clover.bus.port import Bus
from clover.bus.values import Admission
from clover.core.outcome import Outcome

Check = Callable[[Callable[[Bus], Coroutine[Any, Any, None]]], None]


def test_what_is_handed_back_goes_to_the_next_claim_and_costs_no_try(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1"), a_request("r2", priority="high")], bound=10)
        taken = await bus.pull("c1", count=2, block_s=1)
        await bus.hand_back("c1", taken)
        assert await bus.own_pending("c1") == []
        assert (await bus.queue()).pending == 2
        claimed = await bus.claim("c2", min_idle_s=3600, count=10)
        assert claimed.deliveries == taken
        assert await bus.own_pending("c2") == taken
        assert (await bus.claim("c3", min_idle_s=3600, count=10)).deliveries == []

    check(test)


def test_only_the_holder_hands_back(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        taken = await bus.pull("c1", count=1, block_s=1)
        [theirs] = (await bus.claim("c2", min_idle_s=0, count=1)).deliveries
        await bus.hand_back("c1", taken)
        assert await bus.own_pending("c2") == [theirs]
        await bus.finish([done(theirs)])
        await bus.hand_back("c2", [theirs])
        assert (await bus.queue()).pending == 0

    check(test)


def test_who_leaves_leaves_its_work_to_the_others(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request(f"r{i}") for i in range(4)], bound=10)
        taken = await bus.pull("c1", count=3, block_s=1)
        await bus.finish([done(taken[0])])
        assert await bus.leave("c1") == 2
        assert await bus.leave("c1") == 0
        assert await bus.own_pending("c1") == []
        claimed = await bus.claim("c2", min_idle_s=3600, count=10)
        assert [(one.request.id, one.times_delivered) for one in claimed.deliveries] == [("r1", 1), ("r2", 1)]
        assert [one.request.id for one in await bus.pull("c2", count=5, block_s=0)] == ["r3"]

    check(test)


def test_only_silent_consumers_that_hold_nothing_are_reaped(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        [held] = await bus.pull("holds", count=1, block_s=1)
        await bus.admit([a_request("for-silent")], bound=10)
        await bus.finish([done(one) for one in await bus.pull("silent", count=1, block_s=1)])
        await asyncio.sleep(0.15)
        await bus.admit([a_request("for-awake")], bound=10)
        await bus.finish([done(one) for one in await bus.pull("awake", count=1, block_s=1)])
        assert await bus.reap(idle_s=0.1) == ["silent"]
        assert await bus.reap(idle_s=0.1) == []
        assert await bus.own_pending("holds") == [held]
        # Whoever was forgotten is known again as soon as it asks.
        await bus.admit([a_request("r2")], bound=10)
        assert [one.request.id for one in await bus.pull("silent", count=1, block_s=1)] == ["r2"]

    check(test)


def test_the_pseudo_consumer_of_what_was_handed_back_is_not_reaped(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        await bus.hand_back("c1", await bus.pull("c1", count=1, block_s=1))
        await asyncio.sleep(0.05)
        assert await bus.reap(idle_s=0) == ["c1"]
        assert len((await bus.claim("c2", min_idle_s=3600, count=1)).deliveries) == 1

    check(test)


def soon_ms(seconds: float) -> float:
    return time.time() * 1e3 + seconds * 1e3


def test_the_sweeper_answers_what_nobody_will_once(check: Check) -> None:
    async def test(bus: Bus) -> None:
        past = soon_ms(-10)
        batch = [a_request("unread", deadline_ms=past), a_request("urgent", deadline_ms=past, priority="high")]
        batch += [a_request("held", deadline_ms=soon_ms(-20)), a_request("fresh")]
        await bus.admit(batch[2:3], bound=10)
        [held] = await bus.pull("c1", count=1, block_s=1)
        await bus.admit([*batch[:2], batch[3]], bound=10)
        assert sorted((await bus.sweep(grace_s=15)).expired) == ["held"]
        both = await asyncio.gather(bus.sweep(grace_s=0), bus.sweep(grace_s=0))
        assert sorted(one for swept in both for one in swept.expired) == ["unread", "urgent"]
        assert [swept.vanished for swept in both] == [[], []]
        replies, _ = await bus.replies("generator", "0", block_s=0)
        assert sorted((reply.id, reply.outcome) for reply in replies) == [
            ("held", Outcome.EXPIRED),
            ("unread", Outcome.EXPIRED),
            ("urgent", Outcome.EXPIRED),
        ]
        # Whoever comes too late is told so, and nobody is answered twice.
        assert await bus.finish([done(held)]) == [False]
        assert len((await bus.replies("generator", "0", block_s=0))[0]) == 3
        assert [one.request.id for one in await bus.pull("c1", count=9, block_s=1)] == ["fresh"]
        status = await bus.queue()
        assert (status.waiting, status.pending) == (0, 1)

    check(test)


def test_the_sweeper_leaves_what_was_answered(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1", deadline_ms=soon_ms(-1))], bound=10)
        [taken] = await bus.pull("c1", count=1, block_s=1)
        assert await bus.finish([done(taken)]) == [True]
        assert (await bus.sweep(grace_s=0)).expired == []
        assert [reply.outcome for reply in (await bus.replies("generator", "0", block_s=0))[0]] == [Outcome.OK]

    check(test)


def test_one_sweep_is_limited_and_the_next_goes_on(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request(f"r {i}", deadline_ms=soon_ms(-1)) for i in range(5)], bound=10)
        swept = [await bus.sweep(grace_s=0, limit=2) for _ in range(4)]
        assert [len(one.expired) for one in swept] == [2, 2, 1, 0]
        assert {one for part in swept for one in part.expired} == {f"r {i}" for i in range(5)}
        assert (await bus.queue()).waiting == 0

    check(test)


def test_room_that_the_sweeper_made_is_given_again(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1", deadline_ms=soon_ms(-1))], bound=1)
        assert await bus.admit([a_request("r2")], bound=1) == [Admission.FULL]
        await bus.sweep(grace_s=0)
        assert await bus.admit([a_request("r2")], bound=1) == [Admission.ADMITTED]

    check(test)


def test_ids_are_remembered_beyond_their_answer(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1"), a_request("r2")], bound=1)
        assert await bus.known(["r1", "r2", "r3"]) == [True, False, False]
        await bus.finish([done(one) for one in await bus.pull("c1", count=1, block_s=1)])
        assert await bus.known(["r1"]) == [True]
        assert await bus.known([]) == []

    check(test)


def test_more_than_one_call_carries_is_split(check: Check) -> None:
    async def test(bus: Bus) -> None:
        many = [a_request(f"r{i}", payload=b"x" * (20_000 if i < 900 else 1)) for i in range(2500)]
        assert await bus.admit(many, bound=2400) == [Admission.ADMITTED] * 2400 + [Admission.FULL] * 100
        taken = await bus.pull("c1", count=2500, block_s=1)
        assert [one.request.id for one in taken] == [f"r{i}" for i in range(2400)]
        assert await bus.finish([done(one, payload=b"y" * 20_000) for one in taken]) == [True] * 2400
        assert (await bus.queue()).pending == 0

    check(test)
