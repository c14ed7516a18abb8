"""What every bus does with requests and replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support import a_reply, a_request, done

from clover.bus.port import Bus
from clover.bus.values import Admission, Feed
from clover.core.outcome import Outcome
from clover.errors import MessageRejectedError

Check = Callable[[Callable[[Bus], Coroutine[Any, Any, None]]], None]


def test_a_request_goes_through_the_whole_cycle(check: Check) -> None:
    async def test(bus: Bus) -> None:
        request = a_request("r1", min_accuracy=80.5, traceparent="00-1-2-01", content_type="text/plain")
        assert await bus.admit([request], bound=10) == [Admission.ADMITTED]
        [delivery] = await bus.pull("c1", count=5, block_s=1)
        assert delivery.request == request
        assert delivery.times_delivered == 1
        reply = a_reply("r1", accuracy_pct=81.25, epoch=3, queue_ms=1.5, service_ms=0.1, energy_j=None)
        assert await bus.finish([done(delivery, accuracy_pct=81.25, epoch=3, queue_ms=1.5, service_ms=0.1)]) == [True]
        replies, cursor = await bus.replies("generator", "0", block_s=1)
        assert replies == [reply]
        assert await bus.replies("generator", cursor, block_s=0) == ([], cursor)

    check(test)


def test_an_id_is_admitted_once_even_within_a_batch_and_when_full(check: Check) -> None:
    async def test(bus: Bus) -> None:
        first, second = a_request("r1"), a_request("r2")
        assert await bus.admit([first, first], bound=1) == [Admission.ADMITTED, Admission.DUPLICATE]
        assert await bus.admit([first, second], bound=1) == [Admission.DUPLICATE, Admission.FULL]
        [delivery] = await bus.pull("c1", count=5, block_s=1)
        await bus.finish([done(delivery)])
        assert await bus.admit([first, second], bound=1) == [Admission.DUPLICATE, Admission.ADMITTED]

    check(test)


def test_only_waiting_requests_count_against_the_bound(check: Check) -> None:
    async def test(bus: Bus) -> None:
        batch = [a_request(f"r{i}", priority="high" if i % 2 else "normal") for i in range(4)]
        assert (await bus.admit(batch, bound=3)).count(Admission.FULL) == 1
        await bus.pull("c1", count=2, block_s=1)
        assert await bus.admit([a_request("r8"), a_request("r9")], bound=2) == [Admission.ADMITTED, Admission.FULL]

    check(test)


def test_pull_takes_up_to_count_in_order(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request(f"r{i}") for i in range(5)], bound=10)
        first = await bus.pull("c1", count=3, block_s=1)
        second = await bus.pull("c2", count=3, block_s=1)
        assert [delivery.request.id for delivery in first + second] == ["r0", "r1", "r2", "r3", "r4"]
        assert await bus.pull("c1", count=3, block_s=0) == []

    check(test)


def test_high_priority_goes_first_and_never_more_than_count(check: Check) -> None:
    async def test(bus: Bus) -> None:
        batch = [a_request(f"n{i}") for i in range(3)]
        batch += [a_request(f"h{i}", priority="high") for i in range(2)]
        await bus.admit(batch, bound=10)
        order: list[str] = []
        for _ in range(5):
            [delivery] = await bus.pull("c1", count=1, block_s=1)
            order.append(delivery.request.id)
        assert order[:2] == ["h0", "h1"]
        assert sorted(order[2:]) == ["n0", "n1", "n2"]
        assert await bus.pull("c1", count=1, block_s=0) == []

    check(test)


def test_pull_waits_for_a_request_and_gives_up_in_time(check: Check) -> None:
    async def test(bus: Bus) -> None:
        began = time.monotonic()
        assert await bus.pull("c1", count=1, block_s=0.1) == []
        assert 0.05 < time.monotonic() - began < 1.0
        async with asyncio.TaskGroup() as group:
            pull = group.create_task(bus.pull("c1", count=1, block_s=10))
            await asyncio.sleep(0.02)
            await bus.admit([a_request("r1")], bound=10)
        assert [delivery.request.id for delivery in pull.result()] == ["r1"]

    check(test)


def test_of_two_who_finish_one_replies(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        [mine] = await bus.pull("c1", count=1, block_s=1)
        [theirs] = (await bus.claim("c2", min_idle_s=0, count=1)).deliveries
        assert theirs.times_delivered == 2
        assert await bus.finish([done(mine), done(mine)]) == [True, False]
        assert await bus.finish([done(theirs)]) == [False]
        replies, _ = await bus.replies("generator", "0", block_s=0)
        assert len(replies) == 1

    check(test)


def test_replies_go_to_their_producers(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request(f"r{i}", reply_to=f"p{i % 2}") for i in range(6)], bound=10)
        await bus.finish([done(delivery) for delivery in await bus.pull("c1", count=10, block_s=1)])
        for producer in (0, 1):
            replies, _ = await bus.replies(f"p{producer}", "0", block_s=0)
            assert [reply.id for reply in replies] == [f"r{i}" for i in range(6) if i % 2 == producer]

    check(test)


def test_replies_wake_a_waiting_producer(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        [delivery] = await bus.pull("c1", count=1, block_s=1)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bus.replies("generator", "0", block_s=10))
            await asyncio.sleep(0.02)
            await bus.finish([done(delivery, outcome=Outcome.FAILED, reason="no")])
        assert [reply.outcome for reply in waiting.result()[0]] == [Outcome.FAILED]

    check(test)


def test_own_pending_gives_back_what_a_cancelled_pull_took(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1"), a_request("r2", priority="high")], bound=10)
        taken = await bus.pull("c1", count=2, block_s=1)
        assert await bus.own_pending("c2") == []
        again = await bus.own_pending("c1")
        assert again == taken
        # Asking is not another delivery.
        assert await bus.own_pending("c1") == taken
        await bus.finish([done(taken[0])])
        assert await bus.own_pending("c1") == taken[1:]

    check(test)


def test_a_cancelled_pull_does_not_lose_anything(check: Check) -> None:
    async def test(bus: Bus) -> None:
        for number in range(10):
            pull = asyncio.create_task(bus.pull("c1", count=1, block_s=5))
            await asyncio.sleep(0.002 * (number % 3))
            await bus.admit([a_request(f"r{number}")], bound=100)
            pull.cancel()
            await asyncio.gather(pull, return_exceptions=True)
        held = {delivery.request.id for delivery in await bus.own_pending("c1")}
        held |= {delivery.request.id for delivery in await bus.pull("c1", count=20, block_s=0.1)}
        # One that the server served just as its reader was cut off shows up in the pending list at last.
        held |= {delivery.request.id for delivery in await bus.own_pending("c1")}
        assert held == {f"r{number}" for number in range(10)}

    check(test)


def test_claim_takes_over_only_what_is_idle(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request(f"r{i}") for i in range(3)], bound=10)
        kept, *_ = await bus.pull("c1", count=3, block_s=1)
        await asyncio.sleep(0.15)
        await bus.keep_alive("c1", [kept])
        claimed = await bus.claim("c2", min_idle_s=0.1, count=10)
        assert [(one.request.id, one.times_delivered) for one in claimed.deliveries] == [("r1", 2), ("r2", 2)]
        assert claimed.vanished_ids == []
        assert (await bus.claim("c3", min_idle_s=0.1, count=10)).deliveries == []
        assert [one.request.id for one in await bus.own_pending("c1")] == ["r0"]
        assert [one.times_delivered for one in await bus.own_pending("c2")] == [2, 2]

    check(test)


def test_claim_respects_count(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request(f"r{i}") for i in range(5)], bound=10)
        await bus.pull("c1", count=5, block_s=1)
        assert len((await bus.claim("c2", min_idle_s=0, count=2)).deliveries) == 2

    check(test)


def test_a_heartbeat_does_not_take_back_what_another_has_claimed(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        [delivery] = await bus.pull("c1", count=1, block_s=1)
        await bus.claim("c2", min_idle_s=0, count=1)
        await bus.keep_alive("c1", [delivery])
        assert await bus.own_pending("c1") == []

    check(test)


def test_queue_status(check: Check) -> None:
    async def test(bus: Bus) -> None:
        empty = await bus.queue()
        assert (empty.waiting, empty.pending, empty.admitted, empty.oldest_age_s) == (0, 0, 0, 0.0)
        await bus.admit([a_request("r1"), a_request("r2"), a_request("r3", priority="high")], bound=10)
        [delivery] = await bus.pull("c1", count=1, block_s=1)
        await asyncio.sleep(0.05)
        status = await bus.queue()
        assert (status.waiting, status.pending, status.admitted) == (2, 1, 3)
        assert 0.03 < status.oldest_age_s < 5
        await bus.finish([done(delivery)])
        status = await bus.queue()
        assert (status.waiting, status.pending, status.admitted) == (2, 0, 3)

    check(test)


def test_nothing_in_is_nothing_out(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.admit([], bound=1) == []
        assert await bus.finish([]) == []
        await bus.keep_alive("c1", [])
        await bus.publish(Feed.EVENTS, [])
        assert await bus.own_pending("c1") == []
        await bus.ping()

    check(test)


@pytest.mark.parametrize("wrong", [{"due_ms": float("nan")}, {"reply_to": "a b"}, {"id": ""}])
def test_a_request_that_cannot_be_written_is_refused(check: Check, wrong: dict[str, Any]) -> None:
    async def test(bus: Bus) -> None:
        with pytest.raises(MessageRejectedError):
            await bus.admit([a_request("r1"), a_request("r2", **wrong)], bound=10)
        assert (await bus.queue()).waiting == 0

    check(test)


def test_an_exhausted_request_is_answered(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.admit([a_request("r1")], bound=10)
        [delivery] = await bus.pull("c1", count=1, block_s=1)
        assert await bus.finish([done(delivery, "three tries", outcome=Outcome.FAILED)]) == [True]
        assert await bus.finish([done(delivery, "three tries", outcome=Outcome.FAILED)]) == [False]
        replies, _ = await bus.replies("generator", "0", block_s=0)
        assert [reply.outcome for reply in replies] == [Outcome.FAILED]

    check(test)
