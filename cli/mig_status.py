"""`clover mig status` and `clover mig watch`: what GPUs are, once or as it changes."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import mig_source as source
from cli.options import parse_duration
from cli.output import print_json

if TYPE_CHECKING:
    from cli.mig_view import GpuView


def status(
    gpus: source.Gpus = None,
    *,
    processes: Annotated[bool, typer.Option("--processes", help="Find the processes that use each instance.")] = False,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Show mode, instances, their UUIDs and who made them. Without rights: what everybody may see.

    Examples: clover mig status; clover mig status 0 --processes --json
    """
    from cli.mig_view import read_view, view_fields, view_lines  # noqa: PLC0415 - keeps --help fast

    async def work(host: source.Host) -> tuple[dict[str, Any], list[GpuView]]:
        return host.head(), [await read_view(gpu, host.store, processes=processes) for gpu in host.chosen(gpus)]

    head, views = source.run_on(source.Source(simulate=simulate, helper=helper, state_dir=state_dir), work)
    if as_json:
        print_json({**head, "gpus": [view_fields(view) for view in views]})
        return
    for view in views:
        print("\n".join(view_lines(view)))


def watch(
    gpus: source.Gpus = None,
    *,
    interval: Annotated[
        float, typer.Option("--interval", parser=parse_duration, metavar="DURATION", help="Between two looks.")
    ] = "2s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many looks; 0: never.")] = 0,
    simulate: source.Simulate = None,
    helper: source.Helper = None,
    state_dir: source.StateDir = None,
    as_json: source.Json = False,
) -> None:
    """Print each change of mode or instances as it is seen; with --json one object a line. Ends with Ctrl-C.

    Examples: clover mig watch; clover mig watch all --interval 5s --json
    """

    async def work(host: source.Host) -> None:
        watcher = _Watcher(as_json=as_json, head=host.head())
        looks = 0
        while True:
            for gpu in host.chosen(gpus):
                await watcher.look(gpu, host)
            looks += 1
            if looks == count:
                return
            await asyncio.sleep(interval)

    source.run_on(source.Source(simulate=simulate, helper=helper, state_dir=state_dir), work)


class _Watcher:
    """Remembers the last look at each GPU and prints the differences."""

    def __init__(self, *, as_json: bool, head: dict[str, Any]) -> None:
        self._as_json = as_json
        self._head = head
        self._seen: dict[int, dict[str, str]] = {}

    async def look(self, gpu: Any, host: source.Host) -> None:
        """Look at one GPU; a driver that fails is news too, and may come back."""
        from cli.mig_view import read_view  # noqa: PLC0415 - keeps --help fast
        from mig.errors import MigError  # noqa: PLC0415

        try:
            now = _facts(await read_view(gpu, host.store))
        except MigError as error:
            now = {"error": str(error)}
        before = self._seen.get(gpu.index)
        self._seen[gpu.index] = now
        for key in sorted(now.keys() | (before or {}).keys()):
            old, new = (before or {}).get(key), now.get(key)
            if old != new:
                self._print(gpu.index, "is" if before is None else _kind(old, new), key, new or old or "")

    def _print(self, gpu: int, change: str, what: str, detail: str) -> None:
        at = dt.datetime.now().astimezone().isoformat(timespec="seconds")
        if self._as_json:
            print_json({**self._head, "at": at, "gpu": gpu, "change": change, "what": what, "detail": detail})
        else:
            print(f"{at}  GPU {gpu}  {change:<8} {what}: {detail}", flush=True)


def _facts(view: GpuView) -> dict[str, str]:
    facts = {"mig": "not available" if view.mode is None else str(view.mode)}
    if view.instances is not None:
        facts |= {
            f"instance {each.id} {each.placed}": f"{each.uuid or 'half made'} {view.owner(each.id)}"
            for each in view.instances
        }
    else:
        facts |= {f"device {each.gpu_instance_id}/{each.compute_instance_id}": each.uuid for each in view.devices}
    if view.apply_open:
        facts["apply"] = "under way, or broken off"
    return facts


def _kind(old: str | None, new: str | None) -> str:
    if old is None:
        return "appeared"
    return "gone" if new is None else "changed"
