"""What every bus does, asked of the one in memory and of two servers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from support import (
    a_checkpoint,
    a_plan,
    a_reply,
    a_request,
    a_target,
    an_event,
    done,
    intensity,
    ledger,
    run,
    telemetry,
)

from clover.bus.keys import spec_of
from clover.bus.memory import MemoryBus
from clover.bus.messages import Event, GpuTarget, InstanceTarget, Override, Pin
from clover.bus.port import Admission, Bus, Feed
from clover.bus.redis import RedisBus, RedisLink
from clover.core.outcome import Outcome
from clover.errors import MessageRejectedError

Test = Callable[[Bus], Coroutine[Any, Any, None]]
Check = Callable[[Test], None]


@pytest.fixture(params=["memory", "valkey", "redis"])
def check(request: pytest.FixtureRequest) -> Iterator[Check]:
    """Run a test's coroutine on a bus; afterwards every key has a time to live or is meant to stay."""
    deployment = f"t-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        bus = MemoryBus(deployment, lambda: time.time() * 1e3, verify=True)
        yield lambda test: run(test(bus))
        return
    server = request.getfixturevalue("valkey" if request.param == "valkey" else "redis_server")

    async def on_server(test: Test) -> None:
        bus = RedisBus(server.url, deployment, "test")
        try:
            await test(bus)
        finally:
            await bus.close()

    yield lambda test: run(on_server(test))
    run(leaks(server.url, deployment))


async def leaks(url: str, deployment: str) -> None:
    """Fail on keys that the registry does not know, or that would stay though they should not."""
    link = RedisLink(url, "leaks")
    try:
        for key in await link.command("KEYS", "*"):
            spec = spec_of(key.decode())
            assert spec is not None, f"{key} is not in the registry"
            assert key.decode().startswith(f"{{{deployment}}}:")
            assert await link.command("TYPE", key) == spec.kind.encode()
            assert spec.permanent == (await link.command("PTTL", key) == -1), f"{key}: {spec.ttl or 'permanent'}"
    finally:
        await link.close()


# --- requests and replies


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


# --- requests that need care


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


# --- feeds


def test_feeds_are_read_in_order_from_a_cursor(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.newest_id(Feed.EVENTS) == "0-0"
        await bus.publish(Feed.EVENTS, [an_event(i) for i in range(5)])
        entries = await bus.follow({Feed.EVENTS: "0"}, block_s=0, count=3)
        assert [entry.message for entry in entries] == [an_event(i) for i in range(3)]
        entries = await bus.follow({Feed.EVENTS: entries[-1].id}, block_s=0)
        assert [entry.message for entry in entries] == [an_event(3), an_event(4)]
        assert await bus.newest_id(Feed.EVENTS) == entries[-1].id
        assert await bus.follow({Feed.EVENTS: entries[-1].id}, block_s=0) == []

    check(test)


def test_follow_waits_on_several_feeds(check: Check) -> None:
    async def test(bus: Bus) -> None:
        cursors = {Feed.EVENTS: "0-0", Feed.TELEMETRY: "0-0"}
        assert await bus.follow(cursors, block_s=0.05) == []
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bus.follow(cursors, block_s=10))
            await asyncio.sleep(0.02)
            await bus.publish_telemetry(telemetry())
        assert [(entry.feed, entry.message) for entry in waiting.result()] == [(Feed.TELEMETRY, telemetry())]

    check(test)


def test_two_followers_each_get_everything(check: Check) -> None:
    async def test(bus: Bus) -> None:
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(bus.follow({Feed.EVENTS: "0"}, block_s=10)) for _ in range(2)]
            await asyncio.sleep(0.02)
            await bus.publish(Feed.EVENTS, [an_event()])
        assert [len(task.result()) for task in both] == [1, 1]

    check(test)


def test_a_feed_refuses_what_json_cannot_carry(check: Check) -> None:
    async def test(bus: Bus) -> None:
        wrong = Event(at_ms=1.0, kind="test", source="test", data={"figures": [1.0, float("inf")]})
        with pytest.raises(MessageRejectedError, match="figures"):
            await bus.publish(Feed.EVENTS, [an_event(), wrong])
        assert await bus.follow({Feed.EVENTS: "0"}, block_s=0) == []

    check(test)


# --- state


def test_node_states(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.node_states() == {}
        for node in ("n1", "n2", "n1"):
            await bus.publish_telemetry(telemetry(node))
        assert await bus.node_states() == {"n1": telemetry("n1"), "n2": telemetry("n2")}
        assert len(await bus.follow({Feed.TELEMETRY: "0"}, block_s=0)) == 3

    check(test)


def test_carbon_and_checkpoint(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.carbon_now() == {}
        assert await bus.checkpoint() is None
        await bus.publish_carbon([intensity(100.0), ledger(1.0)], a_checkpoint())
        await bus.publish_carbon([ledger(2.0)], a_checkpoint())
        assert await bus.carbon_now() == {"intensity": intensity(100.0), "ledger": ledger(2.0)}
        assert await bus.checkpoint() == a_checkpoint()
        entries = await bus.follow({Feed.CARBON: "0"}, block_s=0)
        assert [entry.message for entry in entries] == [intensity(100.0), ledger(1.0), ledger(2.0)]

    check(test)


def test_heartbeats(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.alive() == {}
        await bus.beat("node:n1")
        await asyncio.sleep(0.05)
        await bus.beat("controller")
        alive = await bus.alive()
        assert set(alive) == {"node:n1", "controller"}
        assert 0.0 <= alive["controller"] < alive["node:n1"] < 5.0

    check(test)


# --- control


def test_one_holds_the_lease(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.acquire_lease("a", ttl_s=10)
        assert await bus.acquire_lease("a", ttl_s=10)
        assert not await bus.acquire_lease("b", ttl_s=10)
        await bus.release_lease("b")
        assert not await bus.acquire_lease("b", ttl_s=10)
        await bus.release_lease("a")
        assert await bus.acquire_lease("b", ttl_s=0.05)
        await asyncio.sleep(0.1)
        assert await bus.acquire_lease("a", ttl_s=10)

    check(test)


def test_plans_and_targets_are_fenced(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.plan() is None
        assert await bus.target("n1") is None
        assert await bus.publish_plan("a", a_plan(), [a_target()]) is None
        assert not await bus.update_plan("a", a_plan())
        assert await bus.plan() is None
        await bus.acquire_lease("a", ttl_s=10)
        assert await bus.publish_plan("a", a_plan(epoch=77), [a_target("n1"), a_target("n2", epoch=5)]) == 1
        assert await bus.publish_plan("b", a_plan(), [a_target()]) is None
        assert await bus.plan() == a_plan(epoch=1)
        assert await bus.target("n1") == a_target("n1", epoch=1)
        assert await bus.target("n2") == a_target("n2", epoch=1)
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")]) == 2
        assert await bus.update_plan("a", a_plan(state="serving"))
        assert await bus.plan() == a_plan(epoch=2, state="serving")
        assert await bus.target("n2") == a_target("n2", epoch=1)

    check(test)


def test_a_target_by_hand_raises_the_epoch_and_leaves_the_plan(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.send_by_hand(a_target("n1", reason="by hand")) == 1
        assert await bus.lease_holder() == ""
        await bus.acquire_lease("a", ttl_s=10)
        assert await bus.lease_holder() == "a"
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")]) == 2
        assert await bus.send_by_hand(a_target("n1", reason="by hand"), above=41) == 42
        assert await bus.target("n1") == a_target("n1", epoch=42, reason="by hand")
        assert await bus.plan() == a_plan(epoch=2)
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")]) == 43

    check(test)


def test_what_people_have_decided_is_kept(check: Check) -> None:
    async def test(bus: Bus) -> None:
        assert await bus.override() == Override()
        decided = Override(nodes=("n1",), reason="a fan is broken", by="me@here", at_ms=1.0)
        await bus.set_override(decided)
        assert await bus.override() == decided
        gpu = GpuTarget(index=0, mode="serving", instances=(InstanceTarget(profile="7g", variant="large"),))
        pinned = Override(pins=(Pin(node="n1", gpu=gpu, until_ms=5.0),), paused=True, paused_until_ms=7.0)
        await bus.set_override(pinned)
        assert await bus.override() == pinned
        await bus.set_override(Override(paused=True))
        assert await bus.override() == Override(paused=True)

    check(test)


def test_an_epoch_is_above_what_nodes_have_reached(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.acquire_lease("a", ttl_s=10)
        # As after a loss of the counter: nodes remember epoch 41.
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")], above=41) == 42
        assert await bus.next_target("n1", after_epoch=41, block_s=1) == a_target("n1", epoch=42)
        assert await bus.plan() == a_plan(epoch=42)
        assert await bus.publish_plan("a", a_plan(), [a_target("n1")], above=7) == 43

    check(test)


def test_next_target_gives_the_newest_beyond_an_epoch(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.acquire_lease("a", ttl_s=10)
        assert await bus.next_target("n1", after_epoch=0, block_s=0) is None
        for reason in ("first", "second"):
            await bus.publish_plan("a", a_plan(), [a_target(reason=reason)])
        assert await bus.next_target("n1", after_epoch=0, block_s=1) == a_target(epoch=2, reason="second")
        assert await bus.next_target("n1", after_epoch=2, block_s=0.05) is None
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(bus.next_target("n1", after_epoch=2, block_s=10))
            await asyncio.sleep(0.02)
            await bus.publish_plan("a", a_plan(), [a_target("n2")])
            await bus.publish_plan("a", a_plan(), [a_target("n1")])
        assert waiting.result() == a_target("n1", epoch=4)

    check(test)


def test_close_may_be_called_twice(check: Check) -> None:
    async def test(bus: Bus) -> None:
        await bus.ping()
        await bus.close()
        await bus.close()

    check(test)
