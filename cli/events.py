"""`clover events`: what happens in a deployment, as it happens."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import number, print_json, tell

if TYPE_CHECKING:
    from clover.bus.messages import Event


def events(
    *,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind, such as decision or gpu.failed.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what happens next.")] = True,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    as_json: options.Json = False,
) -> None:
    """Print events, the kept ones first; decisions with their trigger and the alternatives they beat.

    Examples: clover events; clover events --kind decision --json
    """
    here = options.where(deployment, redis, state_dir, wait)
    asyncio.run(_follow(here, kind=kind, follow=follow, as_json=as_json))


async def _follow(here: options.Where, *, kind: str | None, follow: bool, as_json: bool) -> None:
    """Follow for ever; a server that goes away is waited for, as at the start."""
    from clover.agents.runtime import wait_for_bus  # noqa: PLC0415 - keeps --help fast
    from clover.bus.port import Feed  # noqa: PLC0415
    from clover.errors import BusUnavailableError  # noqa: PLC0415

    cursor = "0"
    while True:
        bus = await wait_for_bus(
            redis=here.redis,
            state_folder=here.state_folder,
            deployment=here.deployment,
            client="events",
            wait_s=here.wait_s,
            tell=tell,
        )
        try:
            while True:
                entries = await bus.follow({Feed.EVENTS: cursor}, block_s=1.0 if follow else 0.0)
                for entry in entries:
                    cursor = entry.id
                    if kind is None or entry.message.kind == kind:  # pyright: ignore[reportAttributeAccessIssue]
                        _print(entry.message, as_json=as_json)  # pyright: ignore[reportArgumentType]
                if not entries and not follow:
                    return
        except BusUnavailableError:
            tell("the server does not answer")
        finally:
            await bus.close()


def _print(event: Event, *, as_json: bool) -> None:
    if as_json:
        import msgspec  # noqa: PLC0415 - keeps --help fast

        print_json(msgspec.to_builtins(event))
        return
    at = datetime.fromtimestamp(event.at_ms / 1e3, tz=UTC).strftime("%H:%M:%S")
    print(f"{at}  {event.kind:<18} {event.subject}  {event.reason}", flush=True)
    for other in event.data.get("alternatives", []) if event.kind == "decision" else []:
        kept = "keeps the SLA" if other["meets_sla"] else "misses the SLA"
        print(
            f"          beat {other['configuration']}: objective {other['objective']:.4f}, "
            f"p95 {number(other['p95_ms'], ' ms', 0)} ({kept}), accuracy {other['accuracy_pct']:.2f} %, "
            f"{other['energy_j_per_request']:.2f} J",
            flush=True,
        )
