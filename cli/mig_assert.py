"""`clover mig assert`: whether GPUs are cut as wanted, as an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cli import mig_source as source
from cli.mig_change import File, Layout, Node, Partitions, asked_for
from cli.output import print_json, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.mig_goals import Asked
    from mig.device import Gpu
    from mig.goal import Goal


def assert_(
    partitions: Partitions = None,
    *,
    file: File = None,
    layout: Layout = None,
    node: Node = None,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Exit with 0 if GPUs are cut as wanted, and with 1 if not, saying how they differ.

    Example: clover mig assert 3g+4g
    """
    asked = asked_for(partitions, file, layout, node, None)
    where = source.Source(simulate=simulate, helper=helper, state_dir=state_dir)
    head, differences = source.run_on(where, lambda host: _differences(host, asked))
    if as_json:
        rows = [{"index": index, "difference": text or None} for index, text in differences.items()]
        print_json({**head, "ok": not any(differences.values()), "gpus": rows})
    else:
        for index, text in differences.items():
            print(f"GPU {index}: {text or 'as wanted'}")
    if any(differences.values()):
        sys.exit(1)


async def _differences(host: source.Host, asked: Asked) -> tuple[dict[str, Any], dict[int, str]]:
    from cli.mig_goals import goals_asked  # noqa: PLC0415 - keeps --help fast

    goals = goals_asked(host, asked)
    return host.head(), {index: await _difference(host.gpus[index], goal) for index, goal in goals.items()}


async def _difference(gpu: Gpu, goal: Goal) -> str:
    from mig.apply_plan import assertion  # noqa: PLC0415 - keeps --help fast
    from mig.errors import PermissionDeniedError  # noqa: PLC0415
    from mig.partition import Partition  # noqa: PLC0415

    mode = await gpu.mode()
    if mode.waits_for_reset or mode.current != goal.enabled:
        return f"MIG mode is {mode}: expected {'on' if goal.enabled else 'off'}"
    if not goal.enabled:
        return ""
    try:
        instances = await gpu.instances()
    except PermissionDeniedError:
        if isinstance(goal.wanted, Partition):
            # Places cannot be compared without the right.
            raise
        return await _seen_difference(gpu, goal.wanted)
    return assertion(instances, gpu.model, goal.wanted)


async def _seen_difference(gpu: Gpu, wanted: Sequence[str]) -> str:
    """Compare what every user may see: sizes, but no places."""
    from mig.partition import canonical_multiset  # noqa: PLC0415 - keeps --help fast
    from mig.seen import seen_difference  # noqa: PLC0415

    tell(f"GPU {gpu.index}: without rights only the sizes of its devices are compared")
    return seen_difference(gpu.model, await gpu.devices(), canonical_multiset(gpu.model, wanted))
