"""`clover mig enable` and `clover mig disable`: MIG mode, never with a reset that nobody asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cli import mig_source as source
from cli.output import print_json

if TYPE_CHECKING:
    from mig.device import Gpu, MigMode


def enable(
    gpus: source.Gpus = None,
    *,
    allow_reset: source.AllowReset = False,
    dry_run: source.DryRun = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Switch MIG mode on; needs root, and on Ampere boards --allow-reset.

    Examples: clover mig enable --allow-reset; clover mig enable 0,2-3 --dry-run
    """
    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    _set(where, gpus, enabled=True, allow_reset=allow_reset, dry_run=dry_run, as_json=as_json)


def disable(
    gpus: source.Gpus = None,
    *,
    allow_reset: source.AllowReset = False,
    dry_run: source.DryRun = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Switch MIG mode off; refuses while instances are left (`clover mig reset` first).

    Example: clover mig disable 0 --allow-reset
    """
    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    _set(where, gpus, enabled=False, allow_reset=allow_reset, dry_run=dry_run, as_json=as_json)


def _set(
    where: source.Source, gpus: list[str] | None, *, enabled: bool, allow_reset: bool, dry_run: bool, as_json: bool
) -> None:
    async def work(host: source.Host) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async def one(gpu: Gpu) -> tuple[MigMode, MigMode]:
            return await change_mode(gpu, host, enabled=enabled, allow_reset=allow_reset, dry_run=dry_run)

        return host.head(), [_row(gpu.index, came) for gpu, came in await source.for_each(host.chosen(gpus), one)]

    head, rows = source.run_on(where, work)
    failed = [row for row in rows if row["error"]]
    if as_json:
        print_json({**head, "dry_run": dry_run, "ok": not failed, "gpus": rows})
    else:
        _print_rows(rows, enabled=enabled, dry_run=dry_run)
    if failed:
        sys.exit(6)


async def change_mode(
    gpu: Gpu, host: source.Host, *, enabled: bool, allow_reset: bool, dry_run: bool
) -> tuple[MigMode, MigMode]:
    """Change the mode of one GPU as its only manager; returns the mode before and after.

    Raises:
        MigError: As `Gpu.set_mode`, or another process manages the GPU.
    """
    from mig.managed import ManagedGpu  # noqa: PLC0415 - keeps --help fast

    before = await gpu.mode()
    if dry_run:
        return before, before
    with ManagedGpu(gpu, host.store) as managed:
        return before, await managed.set_mode(enabled=enabled, allow_reset=allow_reset)


def _row(index: int, came: Any) -> dict[str, Any]:
    if not isinstance(came, tuple):
        return {"index": index, "before": None, "after": None, **source.error_fields(came)}
    before, after = (None if mode is None else {"current": mode.current, "pending": mode.pending} for mode in came)
    return {"index": index, "before": before, "after": after, **source.error_fields(None)}


def _print_rows(rows: list[dict[str, Any]], *, enabled: bool, dry_run: bool) -> None:
    wanted = "on" if enabled else "off"
    for row in rows:
        source.tell_fields(row)
        if not row["error"]:
            same = row["before"] == row["after"] == {"current": enabled, "pending": enabled}
            already = f"MIG mode is {wanted} already"
            changed = f"would switch MIG {wanted}" if dry_run else f"MIG mode is {wanted}"
            print(f"GPU {row['index']}: {already if same else changed}")
