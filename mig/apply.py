"""Carries a planned change out on a GPU, and back if it fails. Nothing is decided here; that is `mig.apply_plan`.

Repeating an apply is safe whatever became of the last one: what lives is read first, and only the difference is done.
If the process dies in the middle, the record says what was ours and what the GPU was cut into, and the next apply goes
on from there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mig.apply_plan import ApplyPlan, ApplyReport, Step, differs, plan_apply, plan_rollback
from mig.change import Change, DrainCost, Wanted
from mig.device import Gpu, GpuInstance
from mig.errors import DriverError, MigError, RecordError
from mig.managed import ManagedGpu
from mig.ownership import layout
from mig.partition import Partition
from mig.store import RecordStore


async def _no_drain(_instance: GpuInstance) -> None:
    pass


def _no_report(_step: Step) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What else happens during an apply.

    Attributes:
        drain: Awaited before each instance is destroyed: end what uses it. A `MigError` stops the apply.
        done: Called after each step, those of a roll-back too.
    """

    drain: Callable[[GpuInstance], Awaitable[None]] = _no_drain
    done: Callable[[Step], None] = _no_report


async def plan(
    gpu: Gpu,
    wanted: Wanted,
    store: RecordStore,
    *,
    allowed: frozenset[int] = frozenset(),
    drain_cost: DrainCost[GpuInstance] | None = None,
) -> ApplyPlan:
    """Read a GPU and plan an apply; needs no lock and changes nothing.

    Raises:
        MigError: As `plan_apply`; the mode is not on; or the GPU or the record cannot be read.
    """
    (await gpu.mode()).require_enabled(gpu.index)
    current = await gpu.instances()
    foreign = store.read(gpu.uuid).foreign(current)
    return plan_apply(gpu.model, current, wanted, foreign=foreign, allowed=allowed, drain_cost=drain_cost)


async def apply(
    gpu: Gpu,
    wanted: Wanted,
    store: RecordStore,
    *,
    allowed: frozenset[int] = frozenset(),
    drain_cost: DrainCost[GpuInstance] | None = None,
    hooks: Hooks | None = None,
) -> ApplyReport:
    """Become the writer of a GPU, plan, and carry the plan out; see `apply_managed`.

    Args:
        gpu: The GPU.
        wanted: What all of it shall be cut into.
        store: Where its record and its lock are.
        allowed: Ids of foreign instances that may go.
        drain_cost: What losing an instance costs (default: 1 each).
        hooks: What else happens.

    Raises:
        GpuLockedError: Another process manages the GPU.
    """
    with ManagedGpu(gpu, store, allowed=allowed) as managed:
        return await apply_managed(managed, wanted, drain_cost=drain_cost, hooks=hooks or Hooks())


async def apply_managed(
    gpu: ManagedGpu, wanted: Wanted, *, drain_cost: DrainCost[GpuInstance] | None = None, hooks: Hooks | None = None
) -> ApplyReport:
    """Bring a GPU to what is wanted, or back to what it was, or say where it ended.

    On cancellation it stops at once, without going back; the record tells the next apply.

    Raises:
        MigError: Nothing was changed: the board cannot hold what is wanted, something foreign stands in the way,
            the mode is not on, or the GPU or its record cannot be used. A failure later is in the report instead.
    """
    (await gpu.mode()).require_enabled(gpu.index)
    current = await gpu.reconcile()
    pinned = gpu.pinned(current)
    foreign = gpu.record.foreign(current)
    allowed = frozenset(each.id for each in foreign) - pinned
    made = plan_apply(gpu.model, current, wanted, foreign=foreign, allowed=allowed, drain_cost=drain_cost)
    if made.is_empty:
        gpu.end_apply()
        return ApplyReport(gpu=gpu.index, state="unchanged", plan=made, instances=current)
    gpu.begin_apply(made.before, made.change.layout)
    return await _carry_out(gpu, made, hooks or Hooks())


async def _carry_out(gpu: ManagedGpu, made: ApplyPlan, hooks: Hooks) -> ApplyReport:
    try:
        instances = await _run(gpu, made.change, hooks)
        gpu.end_apply()
    except MigError as error:
        return await _go_back(gpu, made, error, hooks)
    return ApplyReport(gpu=gpu.index, state="applied", plan=made, instances=instances)


async def _go_back(gpu: ManagedGpu, made: ApplyPlan, error: MigError, hooks: Hooks) -> ApplyReport:
    try:
        current = await gpu.reconcile()
        back = plan_rollback(gpu.model, current, _recorded_before(gpu, made), gpu.pinned(current))
        instances = await _run(gpu, back, hooks)
        gpu.end_apply()
    except MigError as second:
        return await _give_up(gpu, made, error, second)
    return ApplyReport(gpu=gpu.index, state="rolled_back", plan=made, instances=instances, error=error)


async def _give_up(gpu: ManagedGpu, made: ApplyPlan, error: MigError, second: MigError) -> ApplyReport:
    instances: tuple[GpuInstance, ...] | None
    try:
        # The record keeps the apply as broken off, so the next one still knows where it began.
        instances = await gpu.reconcile()
    except RecordError:
        instances = await _read(gpu)
    except MigError:
        instances = None
    state = "unknown" if instances is None else "partial"
    return ApplyReport(gpu=gpu.index, state=state, plan=made, instances=instances, error=error, rollback_error=second)


async def _read(gpu: ManagedGpu) -> tuple[GpuInstance, ...] | None:
    try:
        return await gpu.instances()
    except MigError:
        return None


async def _run(gpu: ManagedGpu, change: Change[GpuInstance], hooks: Hooks) -> tuple[GpuInstance, ...]:
    for instance in change.destroy:
        await hooks.drain(instance)
        await gpu.destroy(instance.id)
        hooks.done(Step(instance=instance))
    for placed in change.create:
        await gpu.create(placed.profile, placed.placement)
        hooks.done(Step(placed=placed))
    instances = await gpu.reconcile()
    difference = differs(instances, change, gpu.pinned(instances))
    if difference:
        raise DriverError(
            f"GPU {gpu.index}: {difference}", hint="Something else changes this GPU, or its driver does not do as told."
        )
    return instances


def _recorded_before(gpu: ManagedGpu, made: ApplyPlan) -> Partition:
    # An apply that was broken off and is now repeated goes back to where the first one began.
    recorded = gpu.record.apply
    if recorded is None:
        return made.before
    try:
        return layout(gpu.model, recorded.before)
    except (MigError, ValueError):
        return made.before
