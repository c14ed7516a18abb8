"""From what was asked for on the command line to a checked plan for each GPU; nothing is changed here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.mig_view import instance_fields
from cli.options import host_name
from cli.output import tell
from mig.apply import plan as plan_on
from mig.apply_plan import ApplyPlan, plan_apply
from mig.errors import MigNotSupportedError
from mig.goal import Goal, InvalidGoalError, parse_allowed, parse_goals
from mig.layout_file import goals_of_layout, read_layout_file
from mig.partition import Partition, format_multiset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.mig_source import Host
    from mig.device import Gpu
    from mig.placement import PlacedProfile
    from mig.profiles import GpuModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user asked for.

    Attributes:
        texts: Partitions on the command line.
        file, layout: A named layout of a file instead; both or neither.
        node: Which node of the file this is; None: the name of this host.
        allow: Foreign instances that may go, as `GPU/ID`.
        set_mode: Whether MIG mode may be changed on the way.
        allow_reset: Whether that may reset a board.
    """

    texts: tuple[str, ...] = ()
    file: Path | None = None
    layout: str | None = None
    node: str | None = None
    allow: tuple[str, ...] = ()
    set_mode: bool = False
    allow_reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What would be done on one GPU.

    Attributes:
        gpu: The GPU.
        goal: What it shall be.
        allowed: Ids of foreign instances that may go.
        changes_mode: Whether its mode must be changed.
        plan: Which instances stay, go and come; with a mode to be switched off, those that go.
    """

    gpu: Gpu
    goal: Goal
    allowed: frozenset[int]
    changes_mode: bool
    plan: ApplyPlan

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.plan.is_empty and not self.changes_mode


def goals_asked(host: Host, asked: Asked) -> dict[int, Goal]:
    """Say what each GPU shall be.

    Raises:
        MigError: What was asked for cannot be read, or a board cannot be it.
    """
    if asked.file is None and asked.layout is None:
        return parse_goals(asked.texts, _models(host))
    if asked.file is None or asked.layout is None or asked.texts:
        raise InvalidGoalError("expected partitions, or both of --file and --layout and no partitions")
    return goals_of_layout(read_layout_file(asked.file), asked.layout, asked.node or host_name(), _models(host))


async def plan_all(host: Host, asked: Asked, goals: Mapping[int, Goal]) -> list[Planned]:
    """Plan every GPU, so that nothing is changed anywhere if one of them cannot be done.

    Raises:
        MigError: One cannot.
    """
    allowed = parse_allowed(asked.allow, host.gpus)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_plan(host, host.gpus[index], goal, asked, allowed.get(index, frozenset())))
                for index, goal in goals.items()
            ]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def planned_fields(planned: Planned) -> dict[str, Any]:
    """Describe a plan in JSON."""
    plan = planned.plan
    return {
        "index": planned.gpu.index,
        "uuid": planned.gpu.uuid,
        "mig_enabled": planned.goal.enabled,
        "changes_mode": planned.changes_mode,
        "wanted": _wanted(planned.goal),
        "keep": [instance_fields(each) for each in plan.keep],
        "destroy": [instance_fields(each) for each in plan.destroy],
        "create": [_placed_fields(each) for each in plan.create],
        "layout": [_placed_fields(each) for each in plan.change.layout.placed],
        "foreign": [each.id for each in plan.foreign],
        "nothing_to_do": planned.is_empty,
    }


def planned_line(planned: Planned) -> str:
    """Describe a plan on one line."""
    mode = f"switch MIG mode {'on' if planned.goal.enabled else 'off'}; " if planned.changes_mode else ""
    what = "nothing to do" if planned.is_empty else f"{mode}{planned.plan}"
    return f"GPU {planned.gpu.index}: {what}"


async def _plan(host: Host, gpu: Gpu, goal: Goal, asked: Asked, allowed: frozenset[int]) -> Planned:
    mode = await gpu.mode()
    changes_mode = mode.waits_for_reset or mode.current != goal.enabled
    if changes_mode and (mode.waits_for_reset or not asked.set_mode):
        _refuse(gpu, goal, mode.current)
        mode.require_enabled(gpu.index)
    if mode.current:
        plan = await plan_on(gpu, goal.wanted, host.store, allowed=allowed)
    else:
        plan = plan_apply(gpu.model, (), goal.wanted)
    return Planned(gpu=gpu, goal=goal, allowed=allowed, changes_mode=changes_mode, plan=plan)


def _refuse(gpu: Gpu, goal: Goal, current: bool) -> None:
    if current and not goal.enabled:
        raise InvalidGoalError(
            f"GPU {gpu.index}: MIG mode is on: the layout wants it off", hint="`--set-mode` lets it be changed."
        )


def _models(host: Host) -> dict[int, GpuModel]:
    models: dict[int, GpuModel] = {}
    for index, gpu in host.gpus.items():
        try:
            models[index] = gpu.model
        except MigNotSupportedError as error:
            tell(f"left out: {error}")
    return models


def _wanted(goal: Goal) -> str:
    return str(goal.wanted) if isinstance(goal.wanted, Partition) else format_multiset(goal.wanted)


def _placed_fields(placed: PlacedProfile) -> dict[str, Any]:
    return {
        "profile": placed.profile.name,
        "size": placed.profile.size,
        "start": placed.placement.start,
        "memory_slices": placed.placement.size,
    }
