"""What the kit breaks is broken as it says: crash points, deliveries that come twice, the faulty server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support import a_request, done, persistently, run, telemetry

from clover.bus.memory import MemoryBus
from clover.bus.redis import RedisBus
from clover.bus.values import Admission
from clover.errors import BusUnavailableError, ConfigurationError
from clover.sim.faults.misbehaviour import CRASH_CALLS, CRASH_POINTS, CrashingBus, JumpingTime, MisdeliveringBus
from clover.sim.faults.recording import as_bus
from clover.sim.faults.server import FaultyServer


class DiedError(BaseException):
    """Stands for the death of the process."""


def die() -> None:
    raise DiedError


def memory_bus() -> MemoryBus:
    return MemoryBus("m", lambda: time.time() * 1e3)


async def every_call(bus: Any) -> list[str]:
    """Make each call that has crash points once; return those that came back."""
    back: list[str] = []
    deliveries: list[Any] = []
    calls: dict[str, Any] = {
        "admit": lambda: bus.admit([a_request("r1")], bound=5),
        "pull": lambda: bus.pull("c1", count=1, block_s=0.0),
        "keep_alive": lambda: bus.keep_alive("c1", deliveries),
        "claim": lambda: bus.claim("c2", min_idle_s=0.0, count=1),
        "own_pending": lambda: bus.own_pending("c2"),
        "finish": lambda: bus.finish([done(one) for one in deliveries]),
        "replies": lambda: bus.replies("generator", "0", block_s=0.0),
        "publish_telemetry": lambda: bus.publish_telemetry(telemetry()),
    }
    assert set(calls) == set(CRASH_CALLS)
    for name, call in calls.items():
        try:
            answer = await call()
        except DiedError:
            continue
        back.append(name)
        if name == "pull":
            deliveries = answer
    return back


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_crash_point_is_passed_once_and_where_it_says(point: str) -> None:
    async def test() -> None:
        inner = memory_bus()
        bus = CrashingBus(inner, die=die)
        bus.arm(point)
        call, _, when = point.partition(".")
        back = await every_call(bus)
        assert call not in back
        if call == "admit":
            # Before: it never happened. After: it did, and the caller is not there to hear of it.
            again = await inner.admit([a_request("r1")], bound=5)
            assert again == [Admission.ADMITTED if when == "before" else Admission.DUPLICATE]
        assert (await every_call(bus)).count(call) == 1

    run(test())


def test_nothing_that_came_is_no_reason_to_die() -> None:
    async def test() -> None:
        bus = CrashingBus(memory_bus(), die=die)
        bus.arm("pull.after")
        assert await bus.pull("c1", count=1, block_s=0.0) == []
        bus.arm("claim.after")
        assert (await bus.claim("c1", min_idle_s=0.0, count=1)).deliveries == []

    run(test())


def test_an_unknown_crash_point_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lunch"):
        CrashingBus(memory_bus()).arm("lunch.before")


def test_deliveries_come_twice_and_replies_once() -> None:
    async def test() -> None:
        inner = memory_bus()
        bus = as_bus(MisdeliveringBus(inner, Random(1), share=1.0))
        assert await bus.admit([a_request(f"r{n}") for n in range(5)], bound=10) == [Admission.ADMITTED] * 5
        assert (await inner.queue()).waiting == 5
        seen: list[str] = []
        firsts: list[bool] = []
        while len(seen) < 10:
            taken = await bus.pull("c1", count=5, block_s=0.0)
            seen += [delivery.request.id for delivery in taken]
            firsts += await bus.finish([done(delivery) for delivery in taken])
        assert sorted(seen) == sorted([f"r{n}" for n in range(5)] * 2)
        assert sum(firsts) == 5
        replies, _ = await inner.replies("generator", "0", block_s=0.0)
        assert len(replies) == 5

    run(test())


def test_time_can_be_misread() -> None:
    clock = JumpingTime()
    clock.jump(3600.0)
    assert clock() - time.time() == pytest.approx(3600.0, abs=60.0)
    clock.jump(0.0)
    assert clock() - time.time() == pytest.approx(0.0, abs=60.0)


@pytest.mark.parametrize("how", ["full", "stopped", "disk_full"])
def test_a_starved_server_takes_nothing_and_recovers(tmp_path: Path, how: str) -> None:
    async def test() -> None:
        async with FaultyServer(tmp_path / "data") as server:
            bus = RedisBus(server.url, "s", "test")
            assert await bus.admit([a_request("r0")], bound=100) == [Admission.ADMITTED]
            async with getattr(server, how)():
                with pytest.raises(BusUnavailableError):
                    # The log of a full disk is found out with the next write to it.
                    for number in range(1, 50):
                        await bus.admit([a_request(f"r{number}", payload=b"x" * 100_000)], bound=100)
                        await asyncio.sleep(0.1)
            answer = await persistently(lambda: bus.admit([a_request("again")], bound=100), limit_s=30.0)
            assert answer[0] in {Admission.ADMITTED, Admission.DUPLICATE}
            await bus.close()

    run(test(), limit_s=60.0)


@pytest.mark.parametrize("durable", [True, False])
def test_a_killed_server_comes_back_with_its_data_or_without(tmp_path: Path, durable: bool) -> None:
    async def test() -> None:
        async with FaultyServer(tmp_path / "data", durable=durable) as server:
            bus = RedisBus(server.url, "s", "test")
            await bus.admit([a_request("r1")], bound=100)
            first = server.pid
            await server.kill()
            with pytest.raises(BusUnavailableError):
                await bus.ping()
            await server.restart()
            assert server.pid != first
            answer = await persistently(lambda: bus.admit([a_request("r1")], bound=100))
            assert answer == [Admission.DUPLICATE if durable else Admission.ADMITTED]
            await bus.close()

    run(test())
