"""What plan records say while a fleet changes, the real agents in virtual time: admission, progress, take-over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from control_points import POINTS
from control_stage import MODEL, Stage, check, pin_all, play, settings

from clover.agents.control_writer import ControlWriter
from clover.agents.door import Door
from clover.agents.taking_over import configurations
from clover.bus.messages import Event, PlanRecord, Target
from clover.core.configuration import Configuration, GpuConfiguration, GpuId
from clover.core.queueing import evaluate
from clover.sim.world import World, WorldSettings

DOOR = Door(MODEL, MODEL.table.sla_p95_ms, shed=False)


@dataclass
class Written:
    """A record, with what every GPU is told under it; no targets go with one that settles."""

    record: PlanRecord
    assigned: dict[GpuId, GpuConfiguration]
    changed: tuple[GpuId, ...]


@dataclass
class Records:
    written: list[Written] = field(default_factory=list)

    @property
    def steps(self) -> list[Written]:
        return [each for each in self.written if each.record.state == "rolling"]

    def world(self) -> type[World]:
        """Return a world in which all records are kept."""
        kept = self.written

        class Watched(World):
            def __init__(self, world_settings: WorldSettings) -> None:
                super().__init__(world_settings)
                publish, update = self.bus.publish_plan, self.bus.update_plan

                def assigned() -> dict[GpuId, GpuConfiguration]:
                    return dict(kept[-1].assigned) if kept else {}

                async def publish_(
                    holder: str, plan: PlanRecord, targets: list[Target], *, above: int = 0
                ) -> int | None:
                    before = assigned()
                    now = before | configurations({target.node: target.gpus for target in targets})
                    changed = tuple(sorted(gpu for gpu, what in now.items() if before.get(gpu) != what))
                    epoch = await publish(holder, plan, targets, above=above)
                    if epoch is not None:
                        kept.append(Written(plan, now, changed))
                    return epoch

                async def update_(holder: str, plan: PlanRecord) -> bool:
                    done = await update(holder, plan)
                    if done:
                        kept.append(Written(plan, assigned(), ()))
                    return done

                self.bus.publish_plan = publish_  # type: ignore[method-assign]
                self.bus.update_plan = update_  # type: ignore[method-assign]

        return Watched


def as_written(each: Written) -> tuple[int, list[int]]:
    return each.record.admission_bound, [tier.bound for tier in each.record.tiers]


def as_it_is(each: Written) -> tuple[int, list[int]]:
    """Return what admission should be for what is really assigned."""
    configuration = Configuration.of(each.assigned)
    bound = DOOR.bound(configuration, changed=each.changed)
    return bound, [tier.bound for tier in DOOR.tiers(configuration, changed=each.changed)]


async def pin_later(stage: Stage) -> None:
    await asyncio.sleep(60.0)
    await stage.world.bus.set_override(pin_all("7g", "large"))


def test_while_a_fleet_changes_fewer_are_let_in_and_it_is_told_how_far_it_is() -> None:
    records = Records()
    result, events = play(settings(), pin_later, records.world())
    check(result, events)
    first = max(index for index, each in enumerate(records.written) if each.record.trigger == "start")
    before, steps, after = records.written[first], records.steps[-8:], records.written[-1]
    rolled = [each for each in steps if each.record.trigger == "override"]
    assert len(rolled) == 8
    assert (before.record.state, after.record.state) == ("serving", "serving")
    for each in (before, *rolled, after):
        assert as_written(each) == as_it_is(each)
    # Each step takes one GPU of eight away for as long as a change takes.
    for each in rolled:
        assert len(each.changed) == 1
        settled = DOOR.bound(Configuration.of(each.assigned))
        assert each.record.admission_bound < settled
    assert rolled[0].record.admission_bound < before.record.admission_bound
    assert rolled[-1].record.admission_bound < after.record.admission_bound
    progress = [event.data for event in events if event.kind == "plan.step"][-8:]
    assert [(data["done"], data["total"]) for data in progress] == [(done, 8) for done in range(1, 9)]
    assert all(data["late_pct"] is not None for data in progress)


@pytest.mark.parametrize("point", ["after the plan is written", "between steps", "before it settles"])
def test_what_a_controller_finds_of_a_roll_is_computed_anew_for_what_is_assigned(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, nth, when = POINTS[point]
    method, calls = getattr(ControlWriter, name), [0]
    victims: list[asyncio.Task[None]] = []

    async def wrapped(self: ControlWriter, *args: Any, **kwargs: Any) -> Any:
        due = bool(victims) and calls[0] + 1 == nth
        calls[0] += bool(victims)
        if due and when == "before":
            victims.pop().cancel()
            await asyncio.sleep(0)
        result = await method(self, *args, **kwargs)
        if due and when == "after":
            victims.pop().cancel()
            await asyncio.sleep(0)
        return result

    monkeypatch.setattr(ControlWriter, name, wrapped)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(60.0)
        victims.append(stage.tasks["first"])
        # A variant that is quicker: the bound of the middle of the roll is not that of its end.
        await stage.world.bus.set_override(pin_all("7g", "base"))
        stage.group.create_task(stage.world.controller(name="second"))

    records = Records()
    result, events = play(settings(scheme="base"), script, records.world())
    kinds = check(result, events)
    assert (kinds["controller.took_over"], victims) == (1, [])
    override = [each for each in records.written if each.record.trigger == "override"]
    taken = _since_taken_over(override, events)
    assert taken
    for each in taken:
        assert as_written(each) == as_it_is(each)
        serving = Configuration.of(each.assigned).fleet
        expected = evaluate(MODEL, serving, each.record.prediction.rate_rps, MODEL.table.sla_p95_ms)
        assert each.record.step_prediction.accuracy_pct == pytest.approx(expected.accuracy_pct)
        assert each.record.step_prediction.late_pct == pytest.approx(100.0 * expected.late_fraction)
    assert taken[-1].record.state == "serving"


def _since_taken_over(written: list[Written], events: list[Event]) -> list[Written]:
    at_ms = next(event.at_ms for event in events if event.kind == "controller.took_over")
    return [each for each in written if each.record.since_ms >= at_ms]
