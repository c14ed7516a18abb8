"""`clover plan apply|pin|unpin|pause|resume`: what people tell the controller, until it is taken back or runs out."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli import options
from cli.connection import connected
from cli.output import print_json
from cli.plan_pins import as_given, as_is, check_there, gpu_named, pin_name, read_plan, until_ms, wall_ms, with_pins
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.bus.messages import NodeTelemetry, Override, Pin
    from clover.bus.port import Bus

For: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--for",
        parser=options.parse_duration,
        metavar="DURATION",
        help="Take it back after this long (default: never).",
    ),
]
Reason: TypeAlias = Annotated[str, typer.Option("--reason", help="Shown to everybody who asks why.")]
GpuArguments: TypeAlias = Annotated[list[str] | None, typer.Argument(help="GPUs such as n1/gpu0; none means all.")]


def apply(
    file: Annotated[
        Path,
        typer.Argument(help="JSON as `clover plan --json` prints it; its `gpus` count, dispatch follows the grid."),
    ],
    *,
    for_s: For = None,
    reason: Reason = "",
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Pin the GPUs that a plan names to what it says; the others are planned around them, dispatch follows the grid.

    Examples: clover plan --gpus 10 --json > plan.json; clover plan apply plan.json --for 2h
    """
    wanted = read_plan(file)

    def change(old: Override, nodes: dict[str, NodeTelemetry]) -> list[Pin]:
        for node, gpu in wanted:
            check_there(nodes, node, gpu.index)
        return with_pins(old, nodes, wanted, for_s)

    _tell(options.where(deployment, redis, state_dir), change, reason=reason, as_json=as_json)


def pin(
    gpus: GpuArguments = None,
    *,
    as_: Annotated[
        str | None, typer.Option("--as", help="Such as 4g:large,3g:base, or parked (default: as it is now).")
    ] = None,
    for_s: For = None,
    reason: Reason = "",
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Keep GPUs as they are, or as given, whatever the scheme says.

    Examples: clover plan pin; clover plan pin n1/gpu0 --as 4g:large,3g:base --for 30m
    """
    names = gpus or []

    def change(old: Override, nodes: dict[str, NodeTelemetry]) -> list[Pin]:
        chosen = [gpu_named(name) for name in names] or [(n, g.index) for n, t in nodes.items() for g in t.gpus]
        for node, index in chosen:
            check_there(nodes, node, index)
        wanted = [(node, as_is(nodes[node], index) if as_ is None else as_given(as_, index)) for node, index in chosen]
        return with_pins(old, nodes, wanted, for_s)

    _tell(options.where(deployment, redis, state_dir), change, reason=reason, as_json=as_json)


def unpin(
    gpus: GpuArguments = None,
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Let the scheme decide again about GPUs.

    Examples: clover plan unpin; clover plan unpin n1/gpu0
    """
    names = gpus or []

    def change(old: Override, nodes: dict[str, NodeTelemetry]) -> list[Pin]:
        del nodes
        pins = list(old.pins)
        for name in names:
            gpu_named(name)
            if name not in {pin_name(each) for each in pins}:
                pinned = ", ".join(pin_name(each) for each in pins) or "none"
                raise ConfigurationError(f"GPU {name}: is not pinned, expected one of: {pinned}")
        return [each for each in pins if names and pin_name(each) not in names]

    _tell(options.where(deployment, redis, state_dir), change, as_json=as_json)


def pause(
    *,
    for_s: For = None,
    reason: Reason = "",
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Make no new decision until `clover plan resume`; what is in force stays, nodes go on, a roll is finished.

    Example: clover plan pause --for 1h --reason "measuring"
    """
    _tell(options.where(deployment, redis, state_dir), None, paused=True, for_s=for_s, reason=reason, as_json=as_json)


def resume(
    *,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Let the controller decide again; pins stay.

    Example: clover plan resume
    """
    _tell(options.where(deployment, redis, state_dir), None, paused=False, as_json=as_json)


# --- telling

_Change = Callable[["Override", "dict[str, NodeTelemetry]"], "list[Pin]"]


def _tell(
    here: options.Where,
    change: _Change | None,
    *,
    paused: bool | None = None,
    for_s: float | None = None,
    reason: str = "",
    as_json: bool,
) -> None:
    override = asyncio.run(_write(here, change, paused=paused, for_s=for_s, reason=reason))
    import msgspec  # noqa: PLC0415 - keeps --help fast

    if as_json:
        print_json({"override": msgspec.to_builtins(override)})
        return
    for line in override_lines(msgspec.to_builtins(override), wall_ms()) or ["nothing is overridden"]:
        print(line)


async def _write(
    here: options.Where, change: _Change | None, *, paused: bool | None, for_s: float | None, reason: str
) -> Override:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from clover.agents.overriding import in_force  # noqa: PLC0415

    bus: Bus = await connected(here, "plan")
    try:
        now_ms = wall_ms()
        old = in_force(await bus.override(), now_ms)
        changed = msgspec.structs.replace(old, by=getpass.getuser(), at_ms=now_ms, reason=reason or old.reason)
        if change is not None:
            changed = msgspec.structs.replace(changed, pins=tuple(change(old, await bus.node_states())))
        if paused is not None:
            changed = msgspec.structs.replace(changed, paused=paused, paused_until_ms=until_ms(for_s))
        override = in_force(changed, now_ms)
        await bus.set_override(override)
        return override
    finally:
        await bus.close()


def override_lines(override: dict[str, Any], now_ms: float) -> list[str]:
    """Write what is overridden for people, given as plain values; nothing if nothing is."""

    def until(at_ms: float | None) -> str:
        return "until taken back" if at_ms is None else f"for another {max(0.0, at_ms - now_ms) / 1e3:.0f} s"

    why = f" ({override['reason']})" if override["reason"] else ""
    lines = [f"paused     by {override['by']}, {until(override['paused_until_ms'])}{why}"] if override["paused"] else []
    for pin in override["pins"]:
        gpu = pin["gpu"]
        what = " ".join(f"{i['profile']}:{i['variant']}" for i in gpu["instances"]) or gpu["mode"]
        lines.append(f"pinned     {pin['node']}/gpu{gpu['index']} to {what}, {until(pin['until_ms'])}{why}")
    if override["nodes"]:
        lines.append(f"by hand    {', '.join(override['nodes'])}: the controller leaves them alone")
    return lines
