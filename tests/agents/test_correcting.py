"""Shares of a fleet of which a part is slower than planned: the controller corrects what the nodes are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from control_stage import MODEL, Stage, check, play, settings

from clover.agents.assembly import make_controller, make_node
from clover.agents.controller_settings import ControllerSettings
from clover.agents.fleet import make_fleet
from clover.agents.goals import Goals
from clover.agents.node import NodeSettings
from clover.bus.messages import DispatchRule, Target
from clover.core.application import ServiceModel
from clover.core.configuration import Configuration, GpuConfiguration, GpuId, InstanceKind
from clover.core.queueing import evaluate
from clover.plan.points import Fleetwide
from clover.plan.problem import Answer, Problem
from clover.sim.world import World

GREEN, GOOD = InstanceKind("7g", "base"), InstanceKind("7g", "xxlarge")
#: Planned part of all requests on each kind.
SHARES = {GREEN: 0.6, GOOD: 0.4}
#: Kinds are not spread over the nodes alike, so that their shares depend on what each node takes.
LAYOUT = Configuration.of({
    GpuId(node, index): GpuConfiguration((kind,))
    for node, kinds in (("n1", (GREEN, GREEN, GOOD)), ("n2", (GREEN, GOOD, GOOD)))
    for index, kind in enumerate(kinds)
})  # fmt: skip
RATE_RPS, SLOWER = 24.0, 8.0


class OnePlan:
    """Answers every question with the same layout and shares."""

    name = "one plan"

    def plan(self, problem: Problem) -> Answer:
        evaluation = replace(evaluate(MODEL, LAYOUT.fleet, problem.rate_rps, problem.sla_ms), shares=SHARES)
        return Answer(
            configuration=LAYOUT,
            evaluation=evaluation,
            objective=problem.objective().value(evaluation),
            reason="the only one",
            candidates=(),
            evaluations=1,
            meets_sla=True,
            dispatch=Fleetwide(name="shares", shares=SHARES).by_node(LAYOUT),
        )


def slower(model: ServiceModel) -> ServiceModel:
    variants = {
        name: replace(one, service_ms={profile: SLOWER * ms for profile, ms in one.service_ms.items()})
        for name, one in model.table.variants.items()
    }
    return replace(model, table=replace(model.table, variants=variants))


class HalfSlow(World):
    """The second node is slower than the table says, which is all that is corrected: neither table nor plan changes."""

    async def node(self, index: int, stop: asyncio.Event | None = None) -> None:
        if index == 0:
            await super().node(index, stop)
            return
        agent = make_node(
            NodeSettings(name="n2", backend="sim", target_block_s=3600.0),
            fleet=make_fleet(backend="sim", board="a100-40gb", model=slower(MODEL)),
            gpus=self.settings.gpus[index],
            bus=self.bus,
            clock=self.clock,
            seed=index,
        )
        await agent.run(stop or self.stop)

    async def controller(self, stop: asyncio.Event | None = None, *, name: str = "controller") -> None:
        agent = make_controller(
            ControllerSettings(
                name=name, rate_rps=RATE_RPS, expected_nodes=2, block_s=3600.0, guarded=False, calibrated=False
            ),
            fleet=self.settings.fleet,
            scheme="one plan",
            goals=self.settings.goals,
            faithful=False,
            bus=self.bus,
            clock=self.clock,
            seed=1,
            compute=at_once,
            make=lambda *_, **__: OnePlan(),
        )
        await agent.run(stop or self.stop)


async def at_once(function: Any) -> Any:
    return function()


def told(targets: list[Target | None]) -> dict[str, DispatchRule]:
    return {target.node: target.dispatch for target in targets if target is not None}


def test_shares_come_back_to_the_plan_when_a_node_takes_less_than_its_part() -> None:
    seen: list[Counter[str]] = []
    by_node: list[dict[str, int]] = []
    rules: list[dict[str, DispatchRule]] = []

    async def look(stage: Stage) -> None:
        states = await stage.world.bus.node_states()
        seen.append(sum((Counter(state.begun) for state in states.values()), Counter()))
        by_node.append({node: sum(state.begun.values()) for node, state in states.items()})
        rules.append(told([await stage.world.bus.target(node) for node in ("n1", "n2")]))

    async def script(stage: Stage) -> None:
        # Before the first correction may be, then after the last that is needed.
        for at_s, before_s in ((12.0, 0.0), (37.0, 12.0), (240.0, 37.0), (540.0, 240.0)):
            await asyncio.sleep(at_s - before_s)
            await look(stage)

    wanted = settings(
        gpus=(3, 3), rate_rps=RATE_RPS, duration_s=560.0, goals=Goals(lambda_=0.5, sla_ms=5000.0), scheme="base"
    )
    result, events = play(wanted, script, HalfSlow)
    kinds = check(result, events)

    def green(first: int, last: int) -> float:
        served = seen[last] - seen[first]
        return served[f"{GREEN.variant}/{GREEN.profile}"] / served.total()

    taken = (by_node[3]["n2"] - by_node[2]["n2"]) / (sum(by_node[3].values()) - sum(by_node[2].values()))
    planned = Fleetwide(name="shares", shares=SHARES).by_node(LAYOUT)
    assert taken < 0.6 * planned["n2"].weight
    assert green(0, 1) > SHARES[GREEN] + 0.04
    assert green(2, 3) == pytest.approx(SHARES[GREEN], abs=0.02)
    corrected = [event for event in events if event.kind == "dispatch.corrected"]
    assert 1 <= len(corrected) <= 6
    assert {event.subject for event in corrected} == {"n1, n2"}
    assert {event.reason for event in corrected} == {"shares follow what nodes really served"}
    # Shares within the nodes are corrected; each node's part stays what was planned, and the layout what it was.
    assert kinds["decision"] == kinds["plan.step"] == 1
    before, after = rules[0], rules[-1]
    assert before["n1"].shares != after["n1"].shares
    assert {node: rule.weight for node, rule in before.items()} == {node: rule.weight for node, rule in after.items()}
    good = next(share.share for share in after["n1"].shares if share.variant == GOOD.variant)
    assert good > next(share.share for share in before["n1"].shares if share.variant == GOOD.variant) + 0.05
