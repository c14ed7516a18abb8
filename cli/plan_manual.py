"""`clover plan apply|pin|unpin|pause|resume`: what people tell the controller, until it is taken back or runs out."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli import options
from cli.connection import connected
from cli.output import print_json
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.bus.messages import GpuTarget, NodeTelemetry, Override, Pin
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
    file: Annotated[Path, typer.Argument(help="JSON as `clover plan --json` prints it; `gpus` is what counts.")],
    *,
    for_s: For = None,
    reason: Reason = "",
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Pin the GPUs that a plan names to what it says; the others are planned around them.

    Examples: clover plan --gpus 10 --json > plan.json; clover plan apply plan.json --for 2h
    """
    wanted = _read_plan(file)

    def change(old: Override, nodes: dict[str, NodeTelemetry]) -> list[Pin]:
        for node, gpu in wanted:
            _check_there(nodes, node, gpu.index)
        return _with_pins(old, nodes, wanted, for_s)

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
        chosen = [_gpu(name) for name in names] or [(n, g.index) for n, t in nodes.items() for g in t.gpus]
        for node, index in chosen:
            _check_there(nodes, node, index)
        wanted = [
            (node, _as_is(nodes[node], index) if as_ is None else _as_given(as_, index)) for node, index in chosen
        ]
        return _with_pins(old, nodes, wanted, for_s)

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
            _gpu(name)
            if name not in {_name(each) for each in pins}:
                pinned = ", ".join(_name(each) for each in pins) or "none"
                raise ConfigurationError(f"GPU {name}: is not pinned, expected one of: {pinned}")
        return [each for each in pins if names and _name(each) not in names]

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
    for line in override_lines(msgspec.to_builtins(override), _now_ms()) or ["nothing is overridden"]:
        print(line)


async def _write(
    here: options.Where, change: _Change | None, *, paused: bool | None, for_s: float | None, reason: str
) -> Override:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from clover.agents.overriding import in_force  # noqa: PLC0415

    bus: Bus = await connected(here, "plan")
    try:
        now_ms = _now_ms()
        old = in_force(await bus.override(), now_ms)
        changed = msgspec.structs.replace(old, by=getpass.getuser(), at_ms=now_ms, reason=reason or old.reason)
        if change is not None:
            changed = msgspec.structs.replace(changed, pins=tuple(change(old, await bus.node_states())))
        if paused is not None:
            changed = msgspec.structs.replace(changed, paused=paused, paused_until_ms=_until_ms(for_s))
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


def _now_ms() -> float:
    return time.time() * 1e3


def _until_ms(for_s: float | None) -> float | None:
    return None if for_s is None else _now_ms() + for_s * 1e3


# --- reading what was given


def _with_pins(
    old: Override, nodes: dict[str, NodeTelemetry], wanted: list[tuple[str, GpuTarget]], for_s: float | None
) -> list[Pin]:
    """Return the pins there are, and those that are wanted on GPUs that are there; the newest of a GPU counts."""
    for node, gpu in wanted:
        _check_fits(nodes[node], gpu)
    pins = [*old.pins, *(_pin(node, gpu, for_s) for node, gpu in wanted)]
    return list({_name(pin): pin for pin in pins}.values())


def _pin(node: str, gpu: GpuTarget, for_s: float | None) -> Pin:
    from clover.bus.messages import Pin  # noqa: PLC0415 - keeps --help fast

    return Pin(node=node, gpu=gpu, until_ms=_until_ms(for_s))


def _name(pin: Pin) -> str:
    return f"{pin.node}/gpu{pin.gpu.index}"


def _gpu(name: str) -> tuple[str, int]:
    from clover.agents.taking_over import gpu_id  # noqa: PLC0415 - keeps --help fast

    try:
        found = gpu_id(name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return found.node, found.index


def _check_there(nodes: dict[str, NodeTelemetry], node: str, index: int) -> None:
    if node not in nodes:
        raise ConfigurationError(f"node {node!r}: not there, expected one of: {', '.join(sorted(nodes)) or 'none'}")
    indices = [gpu.index for gpu in nodes[node].gpus]
    if index not in indices:
        raise ConfigurationError(f"GPU {node}/gpu{index}: not there, {node} has {len(indices)} GPUs")


def _check_fits(node: NodeTelemetry, gpu: GpuTarget) -> None:
    from clover.agents.translate import gpu_configuration  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import load_service  # noqa: PLC0415
    from clover.errors import CloverError  # noqa: PLC0415
    from clover.plan.measures import unfit  # noqa: PLC0415
    from mig.partition import maximal_multisets  # noqa: PLC0415
    from mig.profiles import gpu_model  # noqa: PLC0415

    try:
        configuration = gpu_configuration(gpu)
        model = load_service(node.application, "cpu" if node.backend == "cpu" else node.gpu_model)
    except ValueError as error:
        raise ConfigurationError(f"GPU {node.node}/gpu{gpu.index}: {error}") from None
    except CloverError:
        return  # an application of its own file: the controller knows it, and says if the pin cannot be
    if problem := unfit(configuration, model, maximal_multisets(gpu_model(node.gpu_model))):
        raise ConfigurationError(f"GPU {node.node}/gpu{gpu.index}: {problem}")


def _as_is(node: NodeTelemetry, index: int) -> GpuTarget:
    from clover.agents.translate import gpu_target, serving_configuration  # noqa: PLC0415 - keeps --help fast
    from clover.bus.messages import GpuTarget  # noqa: PLC0415

    gpu = next(each for each in node.gpus if each.index == index)
    if gpu.phase == "parked":
        return GpuTarget(index=index, mode="parked")
    configuration = serving_configuration(gpu)
    if configuration is None:
        raise ConfigurationError(
            f"GPU {node.node}/gpu{index}: is {gpu.phase}, expected serving or parked; or give --as"
        )
    return gpu_target(index, configuration)


def _as_given(text: str, index: int) -> GpuTarget:
    from clover.bus.messages import GpuTarget, InstanceTarget  # noqa: PLC0415 - keeps --help fast

    if text in {"parked", "off"}:
        return GpuTarget(index=index, mode=text)  # type: ignore[arg-type]
    parts = [part.strip().partition(":") for part in text.split(",")]
    if not all(profile and variant for profile, _, variant in parts):
        raise ConfigurationError(f"--as = {text!r}: expected profile:variant, ... such as 4g:large,3g:base, or parked")
    instances = tuple(InstanceTarget(profile=profile, variant=variant) for profile, _, variant in parts)
    return GpuTarget(index=index, mode="serving", instances=instances)


def _read_plan(file: Path) -> list[tuple[str, GpuTarget]]:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from clover.bus.messages import GpuTarget  # noqa: PLC0415

    # Made here, so that `--help` need not know the messages.
    gpu_type = msgspec.defstruct("Gpu", [("node", str)], bases=(GpuTarget,), kw_only=True, frozen=True)
    plan_type = msgspec.defstruct("Plan", [("gpus", list[gpu_type])])
    try:
        plan: Any = msgspec.json.decode(file.read_bytes(), type=plan_type)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"{file}: {error}; expected what `clover plan --json` prints") from None
    if not plan.gpus:
        raise ConfigurationError(f"{file}: names no GPU")
    return [(gpu.node, GpuTarget(index=gpu.index, mode=gpu.mode, instances=gpu.instances)) for gpu in plan.gpus]
