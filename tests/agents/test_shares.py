"""Realised shares against planned ones: real node agents in virtual time, no controller to help them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from support import a_plan, a_request

from clover.agents.assembly import make_node
from clover.agents.fleet import make_fleet
from clover.agents.node import NodeSettings
from clover.agents.request_parts import RequestSettings
from clover.agents.translate import by_node, dispatch_target
from clover.bus.memory import MemoryBus
from clover.bus.messages import Reply, Target, Tier
from clover.bus.values import Admission
from clover.catalog import load_service
from clover.core.configuration import Configuration, GpuConfiguration, GpuId, InstanceKind
from clover.core.dispatch import DispatchRule
from clover.core.outcome import Outcome
from clover.plan.points import Fleetwide
from clover.sim.clock import VirtualClock, run_virtual

MODEL = load_service("albert", "a100-40gb")
ACCURACY = {variant.name: variant.accuracy_pct for variant in MODEL.application.variants}
GREEN, GOOD = InstanceKind("1g", "base"), InstanceKind("3g", "large")
#: Wanted part of all requests on each kind.
SHARES = {GREEN: 0.6, GOOD: 0.4}
GPUS = 10


def configuration(nodes: int, *, clustered: bool) -> Configuration:
    """Half of the GPUs are of one kind and half of the other, node by node or in turn."""
    names = [f"n{1 + index * nodes // GPUS}" for index in range(GPUS)]
    gpus = [GpuId(name, names[:index].count(name)) for index, name in enumerate(names)]
    green = GpuConfiguration((GREEN,) * 7)
    good = GpuConfiguration((GOOD,) * 2)
    chosen = [index < GPUS // 2 if clustered else index % 2 == 0 for index in range(GPUS)]
    return Configuration.of({gpu: green if one else good for gpu, one in zip(gpus, chosen, strict=True)})


@asynccontextmanager
async def serving(
    bus: MemoryBus, clock: VirtualClock, wanted: Configuration, rules: Mapping[str, DispatchRule]
) -> AsyncIterator[None]:
    """Run the node agents of a configuration that is already in force."""
    fleet = make_fleet(backend="sim", board="a100-40gb", model=MODEL)
    targets = [
        Target(epoch=0, node=node, application="albert", gpus=gpus, dispatch=dispatch_target(rules[node]), reason="")
        for node, gpus in by_node(wanted).items()
    ]
    tiers = tuple(Tier(accuracy_pct=accuracy, bound=10_000) for accuracy in sorted(ACCURACY.values()))
    assert await bus.acquire_lease("c1", ttl_s=1e6)
    await bus.publish_plan("c1", a_plan(tiers=tiers), targets)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number, target in enumerate(targets):
            settings = NodeSettings(
                name=target.node, backend="sim", target_block_s=3600.0, telemetry_s=5.0,
                requests=RequestSettings(block_s=3600.0, lease_s=30.0),
            )  # fmt: skip
            node = make_node(settings, fleet=fleet, gpus=len(target.gpus), bus=bus, clock=clock, seed=number)
            group.create_task(node.run(stop))
        # Destroy, create, start a worker: in virtual time they take what they are said to take.
        await asyncio.sleep(60.0)
        states = await bus.node_states()
        assert {gpu.phase for state in states.values() for gpu in state.gpus} == {"serving"}
        yield
        stop.set()


async def send(
    bus: MemoryBus, clock: VirtualClock, seconds: float, rate_rps: float, burst: int, *, name: str = "r", **changes: Any
) -> int:
    """Let requests arrive, as a Poisson process of bursts; return how many."""
    rng = Random(f"arrivals/{name}")
    number, until_s = 0, clock.now_s() + seconds
    while clock.now_s() < until_s:
        await asyncio.sleep(rng.expovariate(rate_rps / burst))
        now_ms = clock.now_ms()
        batch = [
            a_request(f"{name}{number + index}", due_ms=now_ms, deadline_ms=now_ms + 30e3, **changes)
            for index in range(burst)
        ]
        number += burst
        assert await bus.admit(batch, bound=10_000) == [Admission.ADMITTED] * burst
    return number


async def answers(bus: MemoryBus, number: int) -> list[Reply]:
    replies: list[Reply] = []
    cursor = "0"
    while len(replies) < number:
        more, cursor = await bus.replies("generator", cursor, block_s=60)
        assert more, f"{number - len(replies)} requests were never answered"
        replies += more
    return replies


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("kinds", ["clustered", "interleaved"])
@pytest.mark.parametrize("burst", [1, 6])
def test_shares_are_within_two_points_over_a_minute(nodes: int, kinds: str, burst: int) -> None:
    wanted = configuration(nodes, clustered=kinds == "clustered")
    rules = Fleetwide(name="shares", shares=SHARES).by_node(wanted)
    planned = {(node, kind): rule.weight * share for node, rule in rules.items() for kind, share in rule.shares.items()}
    assert sum(planned.values()) == pytest.approx(1.0)

    async def main() -> Sequence[Reply]:
        clock = VirtualClock(asyncio.get_running_loop())
        bus = MemoryBus("world", clock.now_ms)
        async with serving(bus, clock, wanted, rules):
            return await answers(bus, await send(bus, clock, 60.0, 40.0, burst))

    replies = run_virtual(main())
    assert all(reply.outcome is Outcome.OK for reply in replies)
    realised = Counter((reply.node, InstanceKind(reply.profile, reply.variant)) for reply in replies)
    off = {who: 100.0 * (realised[who] / len(replies) - part) for who, part in planned.items()}
    assert max(map(abs, off.values())) <= 2.0, off
    # Whoever waits for another's turn does not wait long.
    waits = sorted(reply.queue_ms for reply in replies)
    assert waits[int(0.95 * len(waits))] <= 60.0


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("kinds", ["clustered", "interleaved"])
def test_shares_are_kept_when_some_requests_ask_for_an_accuracy(nodes: int, kinds: str) -> None:
    """One request in four may only go to the accurate kind; the others make up for it."""
    wanted = configuration(nodes, clustered=kinds == "clustered")
    rules = Fleetwide(name="shares", shares=SHARES).by_node(wanted)
    planned = {(node, kind): rule.weight * share for node, rule in rules.items() for kind, share in rule.shares.items()}

    async def main() -> Sequence[Reply]:
        clock = VirtualClock(asyncio.get_running_loop())
        bus = MemoryBus("world", clock.now_ms)
        async with serving(bus, clock, wanted, rules), asyncio.TaskGroup() as group:
            strict = send(bus, clock, 60.0, 10.0, 1, name="s", min_accuracy=ACCURACY["large"])
            sending = [group.create_task(strict), group.create_task(send(bus, clock, 60.0, 30.0, 1))]
            number = sum([await each for each in sending])
            return await answers(bus, number)

    replies = run_virtual(main())
    assert all(reply.outcome is Outcome.OK for reply in replies)
    assert {reply.variant for reply in replies if reply.id.startswith("s")} == {"large"}
    realised = Counter((reply.node, InstanceKind(reply.profile, reply.variant)) for reply in replies)
    off = {who: 100.0 * (realised[who] / len(replies) - part) for who, part in planned.items()}
    assert max(map(abs, off.values())) <= 2.0, off
    waits = sorted(reply.queue_ms for reply in replies)
    assert waits[int(0.95 * len(waits))] <= 60.0


def test_who_asks_for_an_accuracy_gets_it_and_holds_up_nobody() -> None:
    """Accurate instances are short and many ask for them; the others are answered at once all the same."""
    wanted = Configuration.of({
        GpuId("n1", 0): GpuConfiguration((GREEN,) * 7), GpuId("n1", 1): GpuConfiguration((GOOD,)),
        GpuId("n2", 0): GpuConfiguration((GREEN,) * 7),
    })  # fmt: skip

    async def main() -> Sequence[Reply]:
        clock = VirtualClock(asyncio.get_running_loop())
        bus = MemoryBus("world", clock.now_ms)
        async with serving(bus, clock, wanted, {"n1": DispatchRule(), "n2": DispatchRule()}):
            now_ms = clock.now_ms()
            strict = [
                a_request(f"s{index}", due_ms=now_ms, deadline_ms=now_ms + 30e3, min_accuracy=ACCURACY["large"])
                for index in range(40)
            ]
            assert set(await bus.admit(strict, bound=10_000)) == {Admission.ADMITTED}
            return await answers(bus, 40 + await send(bus, clock, 3.0, 20.0, 1))

    replies = run_virtual(main())
    strict = [reply for reply in replies if reply.id.startswith("s")]
    others = [reply for reply in replies if not reply.id.startswith("s")]
    assert {reply.outcome for reply in replies} == {Outcome.OK}
    assert {reply.variant for reply in strict} == {"large"}
    assert max(reply.queue_ms for reply in strict) > 1000.0
    assert max(reply.queue_ms for reply in others) < 100.0
