"""`clover mig plan`, `apply` and `reset`: from what GPUs are to what they shall be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli import mig_source as source
from cli.output import print_json, tell

if TYPE_CHECKING:
    from cli.mig_goals import Asked, Planned
    from mig.apply_plan import ApplyReport
    from mig.device import Gpu
    from mig.goal import Goal

Partitions: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[GPUS=]PARTITION...", help="Such as 3g+4g, 0=3g+4g 1=7g, all=7x1g, a code 0-18, or none."),
]
File: TypeAlias = Annotated[Path | None, typer.Option("--file", help="TOML file of named layouts.")]
Layout: TypeAlias = Annotated[str | None, typer.Option("--layout", help="Name of a layout in the file.")]
Node: TypeAlias = Annotated[str | None, typer.Option("--node", help="Node of the file (default: this host's name).")]
SetMode: TypeAlias = Annotated[
    bool, typer.Option("--set-mode", help="Switch MIG mode where what is wanted needs it (as root).")
]


def plan(
    partitions: Partitions = None,
    *,
    file: File = None,
    layout: Layout = None,
    node: Node = None,
    allow: source.Allow = None,
    set_mode: SetMode = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Print what `apply` would keep, destroy and create; changes nothing.

    Examples: clover mig plan 3g+4g; clover mig plan 0=4g+2g+1g 1=7x1g --simulate a100-40gb:2
    """
    asked = asked_for(partitions, file, layout, node, allow, set_mode=set_mode)
    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    _print_plans(*source.run_on(where, lambda host: _plans(host, asked)), as_json=as_json)


def apply(
    partitions: Partitions = None,
    *,
    file: File = None,
    layout: Layout = None,
    node: Node = None,
    allow: source.Allow = None,
    set_mode: SetMode = False,
    allow_reset: source.AllowReset = False,
    dry_run: source.DryRun = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Cut GPUs as wanted and keep what may stay; goes back if that fails. Repeating it is safe.

    Examples: clover mig apply 3g+4g; clover mig apply 0=1 1=7g; clover mig apply --file mig.toml --layout serving
    """
    asked = asked_for(partitions, file, layout, node, allow, set_mode=set_mode, allow_reset=allow_reset)
    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    if dry_run:
        _print_plans(*source.run_on(where, lambda host: _plans(host, asked)), as_json=as_json)
    else:
        _print_reports(*source.run_on(where, lambda host: _apply(host, asked)), as_json=as_json)


def reset(
    gpus: source.Gpus = None,
    *,
    allow: source.Allow = None,
    dry_run: source.DryRun = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Destroy all instances of GPUs; foreign ones only if they are named with --allow. The mode stays.

    Examples: clover mig reset 0; clover mig reset all --dry-run
    """
    asked = asked_for(None, None, None, None, allow)
    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    if dry_run:
        _print_plans(*source.run_on(where, lambda host: _plans(host, asked, empty=gpus or [])), as_json=as_json)
    else:
        _print_reports(*source.run_on(where, lambda host: _apply(host, asked, empty=gpus or [])), as_json=as_json)


def asked_for(
    partitions: list[str] | None,
    file: Path | None,
    layout: str | None,
    node: str | None,
    allow: list[str] | None,
    *,
    set_mode: bool = False,
    allow_reset: bool = False,
) -> Asked:
    """Collect the options that say what is wanted."""
    from cli.mig_goals import Asked  # noqa: PLC0415 - keeps --help fast

    return Asked(
        texts=tuple(partitions or ()),
        file=file,
        layout=layout,
        node=node,
        allow=tuple(allow or ()),
        set_mode=set_mode,
        allow_reset=allow_reset,
    )


async def _plan_all(host: source.Host, asked: Asked, empty: list[str] | None) -> list[Planned]:
    from cli.mig_goals import goals_asked, plan_all  # noqa: PLC0415 - keeps --help fast

    goals = goals_asked(host, asked) if empty is None else await _empty_goals(host, empty)
    return await plan_all(host, asked, goals)


async def _empty_goals(host: source.Host, texts: list[str]) -> dict[int, Goal]:
    """What a reset wants: nothing on every chosen GPU that is in MIG mode."""
    from mig.errors import MigNotSupportedError  # noqa: PLC0415 - keeps --help fast
    from mig.goal import Goal  # noqa: PLC0415

    goals: dict[int, Goal] = {}
    for gpu in host.chosen(texts):
        try:
            mode = await gpu.mode()
        except MigNotSupportedError as error:
            tell(f"left out: {error}")
            continue
        if mode.current:
            goals[gpu.index] = Goal()
        else:
            tell(f"GPU {gpu.index}: MIG mode is {mode}: there are no instances")
    return goals


async def _plans(
    host: source.Host, asked: Asked, *, empty: list[str] | None = None
) -> tuple[dict[str, Any], list[Planned]]:
    return host.head(), await _plan_all(host, asked, empty)


async def _apply(
    host: source.Host, asked: Asked, *, empty: list[str] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    planned = {each.gpu.index: each for each in await _plan_all(host, asked, empty)}

    async def one(gpu: Gpu) -> ApplyReport:
        return await _carry_out(planned[gpu.index], host, asked)

    done = await source.for_each([each.gpu for each in planned.values()], one)
    return host.head(), [_report_fields(gpu, came) for gpu, came in done]


async def _carry_out(planned: Planned, host: source.Host, asked: Asked) -> ApplyReport:
    """Bring one GPU to its goal: mode on, instances, or instances gone, mode off."""
    from mig.apply import Hooks, apply_managed  # noqa: PLC0415 - keeps --help fast
    from mig.managed import ManagedGpu  # noqa: PLC0415

    gpu, goal = planned.gpu, planned.goal
    hooks = Hooks(done=lambda step: tell(f"GPU {gpu.index}: {step}"))
    with ManagedGpu(gpu, host.store, allowed=planned.allowed) as managed:
        if not goal.enabled and not planned.changes_mode:
            return _unchanged(planned)
        if goal.enabled and planned.changes_mode:
            await managed.set_mode(enabled=True, allow_reset=asked.allow_reset)
        report = await apply_managed(managed, goal.wanted, hooks=hooks)
        if report.ok and not goal.enabled:
            await managed.set_mode(enabled=False, allow_reset=asked.allow_reset)
        return report


def _unchanged(planned: Planned) -> ApplyReport:
    from mig.apply_plan import ApplyReport  # noqa: PLC0415 - keeps --help fast

    return ApplyReport(gpu=planned.gpu.index, state="unchanged", plan=planned.plan, instances=())


def _report_fields(gpu: Gpu, came: Any) -> dict[str, Any]:
    from cli.mig_view import instance_fields  # noqa: PLC0415 - keeps --help fast
    from mig.errors import MigError  # noqa: PLC0415

    row: dict[str, Any] = {"index": gpu.index, "uuid": gpu.uuid}
    if isinstance(came, MigError):
        # Raised instead of reported: this GPU was not changed, or only its mode was.
        return {**row, "state": "refused", "instances": None, "rollback_error": None, **source.error_fields(came)}
    instances = None if came.instances is None else [instance_fields(each) for each in came.instances]
    back = None if came.rollback_error is None else str(came.rollback_error)
    return {**row, "state": came.state, "instances": instances, "rollback_error": back, **_failure(came)}


def _failure(report: ApplyReport) -> dict[str, Any]:
    from mig.errors import MigError  # noqa: PLC0415 - keeps --help fast

    try:
        report.raise_if_failed()
    except MigError as error:
        return source.error_fields(error)
    return source.error_fields(None)


def _print_plans(head: dict[str, Any], plans: list[Planned], *, as_json: bool) -> None:
    from cli.mig_goals import planned_fields, planned_line  # noqa: PLC0415 - keeps --help fast

    if as_json:
        print_json({**head, "dry_run": True, "gpus": [planned_fields(each) for each in plans]})
        return
    for each in plans:
        print(planned_line(each))


def _print_reports(head: dict[str, Any], rows: list[dict[str, Any]], *, as_json: bool) -> None:
    failed = [row for row in rows if row["state"] not in {"unchanged", "applied"}]
    if as_json:
        print_json({**head, "dry_run": False, "ok": not failed, "gpus": rows})
    else:
        for row in rows:
            _print_report(row)
    if failed:
        sys.exit(6)


def _print_report(row: dict[str, Any]) -> None:
    source.tell_fields(row)
    living = ", ".join(f"{each['size']}@{each['start']} {each['uuid']}" for each in row["instances"] or [])
    known = "not known" if row["instances"] is None else living or "no instances"
    print(f"GPU {row['index']}: {row['state'].replace('_', ' ')}: {known}")
