"""Pins of GPUs: what people want of them, read from a plan's file or the command line and checked against the nodes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.bus.messages import GpuTarget, NodeTelemetry, Override, Pin


def with_pins(
    old: Override, nodes: dict[str, NodeTelemetry], wanted: list[tuple[str, GpuTarget]], for_s: float | None
) -> list[Pin]:
    """Return the pins there are, and those that are wanted on GPUs that are there; the newest of a GPU counts."""
    for node, gpu in wanted:
        _check_fits(nodes[node], gpu)
    pins = [*old.pins, *(_pin(node, gpu, for_s) for node, gpu in wanted)]
    return list({pin_name(pin): pin for pin in pins}.values())


def _pin(node: str, gpu: GpuTarget, for_s: float | None) -> Pin:
    from clover.bus.messages import Pin  # noqa: PLC0415 - keeps --help fast

    return Pin(node=node, gpu=gpu, until_ms=until_ms(for_s))


def pin_name(pin: Pin) -> str:
    """Return the name of the GPU that is pinned."""
    return f"{pin.node}/gpu{pin.gpu.index}"


def gpu_named(name: str) -> tuple[str, int]:
    """Return node and index of a GPU such as `n1/gpu0`."""
    from clover.agents.taking_over import gpu_id  # noqa: PLC0415 - keeps --help fast

    try:
        found = gpu_id(name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return found.node, found.index


def check_there(nodes: dict[str, NodeTelemetry], node: str, index: int) -> None:
    """Refuse a GPU that no node has."""
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


def as_is(node: NodeTelemetry, index: int) -> GpuTarget:
    """Return what a GPU is now, as a target."""
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


def as_given(text: str, index: int) -> GpuTarget:
    """Return the target of a text such as `4g:large,3g:base`, `parked` or `off`."""
    from clover.bus.messages import GpuTarget, InstanceTarget  # noqa: PLC0415 - keeps --help fast

    if text in {"parked", "off"}:
        return GpuTarget(index=index, mode=text)  # type: ignore[arg-type]
    parts = [part.strip().partition(":") for part in text.split(",")]
    if not all(profile and variant for profile, _, variant in parts):
        raise ConfigurationError(f"--as = {text!r}: expected profile:variant, ... such as 4g:large,3g:base, or parked")
    instances = tuple(InstanceTarget(profile=profile, variant=variant) for profile, _, variant in parts)
    return GpuTarget(index=index, mode="serving", instances=instances)


def read_plan(file: Path) -> list[tuple[str, GpuTarget]]:
    """Return node and target of each GPU of a file as `clover plan --json` prints it."""
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


def wall_ms() -> float:
    """Return the time, ms since the Unix epoch."""
    return time.time() * 1e3


def until_ms(for_s: float | None) -> float | None:
    """Return when a time from now is over; None, for ever, for none."""
    return None if for_s is None else wall_ms() + for_s * 1e3
