"""`clover node`: one node controlled by hand, past the controller or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.connection import connected
from cli.output import print_json, tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.by_hand import ByHand
    from clover.agents.orders import Order, Sent
    from clover.bus.messages import NodeTelemetry
    from mig.profiles import GpuModel

    Steps = Callable[[ByHand], Awaitable[dict[str, Any]]]

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the node, see `clover status`.")]
GpuList = Annotated[
    list[int] | None, typer.Option("--gpu", min=0, help="Index of a GPU; may be given again (default: all).")
]
Take = Annotated[
    bool, typer.Option("--take", help="Take the node from the controller, until `clover node release` gives it back.")
]
WaitFor = Annotated[bool, typer.Option("--wait", help="Wait until telemetry shows that it is in force.")]
Within = Annotated[
    float,
    typer.Option("--within", parser=options.parse_duration, metavar="DURATION", help="Longest wait."),
]


@dataclass(frozen=True, slots=True)
class _Ask:
    """What every command of this group is told."""

    name: str
    take: bool
    wait: bool
    within_s: float
    here: options.Where
    as_json: bool


@app.command()
def configure(
    name: Name,
    *,
    partition: Annotated[str, typer.Option("--partition", help="Profiles such as 4g+3g, or a code 0 to 18.")],
    variants: Annotated[
        str,
        typer.Option("--variants", help="A variant per instance, comma-separated, or one for all (default: largest)."),
    ] = "",
    gpu: GpuList = None,
    take: Take = False,
    wait: WaitFor = False,
    within: Within = "2m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Cut GPUs of a node and start a variant on every instance.

    Refused while a controller acts that is not paused, unless the node is taken from it.

    Example: clover node configure n1 --gpu 0 --partition 4g+3g --variants xxlarge,base --take --wait
    """
    ask = _Ask(name, take, wait, within, options.where(deployment, redis, state_dir), as_json)

    def order(node: NodeTelemetry) -> Order:
        from clover.agents.orders import cut  # noqa: PLC0415 - keeps --help fast
        from mig.profiles import gpu_model  # noqa: PLC0415

        names = variants.split(",") if variants else [_largest(node.application)]
        return cut(_sizes(gpu_model(node.gpu_model), partition), names)

    _run(ask, _order(ask, order, gpu, what=f"configure {partition}"))


@app.command()
def start(
    name: Name,
    *,
    variants: Annotated[
        str, typer.Option("--variants", help="One for all instances, or one per instance, largest instance first.")
    ],
    gpu: GpuList = None,
    take: Take = False,
    wait: WaitFor = False,
    within: Within = "2m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Start other variants on the instances that GPUs of a node have.

    Example: clover node start n1 --variants base --take --wait
    """
    from clover.agents.orders import fill  # noqa: PLC0415 - keeps --help fast

    ask = _Ask(name, take, wait, within, options.where(deployment, redis, state_dir), as_json)
    _run(ask, _order(ask, lambda _: fill(variants.split(",")), gpu, what=f"start {variants}"))


@app.command()
def stop(
    name: Name,
    *,
    gpu: GpuList = None,
    off: Annotated[bool, typer.Option("--off", help="Switch them off instead of parking them.")] = False,
    take: Take = False,
    wait: WaitFor = False,
    within: Within = "2m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """End all instances of GPUs of a node; requests in work are finished first.

    Example: clover node stop n1 --gpu 1 --take
    """
    from clover.agents.orders import empty  # noqa: PLC0415 - keeps --help fast

    ask = _Ask(name, take, wait, within, options.where(deployment, redis, state_dir), as_json)
    _run(ask, _order(ask, lambda _: empty("off" if off else "parked"), gpu, what="stop"))


@app.command()
def drain(
    name: Name,
    *,
    within: Within = "2m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Take a node out of service: it is taken from the controller, its GPUs are emptied, and its work is waited for.

    When this returns the node may be stopped; `clover node release` puts it back to work.

    Example: clover node drain n1
    """
    from clover.agents.orders import empty  # noqa: PLC0415 - keeps --help fast

    here = options.where(deployment, redis, state_dir)
    ask = _Ask(name, take=True, wait=True, within_s=within, here=here, as_json=as_json)
    _run(ask, _order(ask, lambda _: empty("parked"), None, what="drain", idle=True))


@app.command()
def release(
    name: Name,
    *,
    within: Within = "2m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Give a node that was taken by hand back to the controller, which plans for it again.

    Example: clover node release n1
    """
    here = options.where(deployment, redis, state_dir)
    ask = _Ask(name, take=False, wait=True, within_s=within, here=here, as_json=as_json)

    async def steps(by_hand: ByHand) -> dict[str, Any]:
        await by_hand.release()
        return {"node": name, "released": True}

    _run(ask, steps)


# --- carrying out


def _order(
    ask: _Ask, make: Callable[[NodeTelemetry], Order], gpus: list[int] | None, *, what: str, idle: bool = False
) -> Steps:
    async def steps(by_hand: ByHand) -> dict[str, Any]:
        order = make(await by_hand.telemetry())
        if ask.take:
            await by_hand.take()
        await by_hand.allowed()
        sent = await by_hand.send(order, gpus, what=what)
        tell(f"{ask.name}: epoch {sent.target.epoch} sent")
        seen = await by_hand.in_force(sent, idle=idle) if ask.wait else None
        return _result(sent, seen)

    return steps


def _run(ask: _Ask, steps: Steps) -> None:
    result = asyncio.run(_carry_out(ask, steps))
    if ask.as_json:
        print_json(result)
    else:
        _print(result)


async def _carry_out(ask: _Ask, steps: Steps) -> dict[str, Any]:
    from clover.agents.by_hand import ByHand  # noqa: PLC0415 - keeps --help fast
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415

    bus = await connected(ask.here, "operator")
    try:
        return await steps(ByHand(bus, SystemClock(), ask.name, wait_s=ask.within_s))
    finally:
        await bus.close()


def _result(sent: Sent, seen: NodeTelemetry | None) -> dict[str, Any]:
    from clover.agents.translate import gpu_configuration  # noqa: PLC0415 - keeps --help fast

    target = sent.target
    phases = {gpu.index: gpu.phase for gpu in seen.gpus} if seen is not None else {}
    return {
        "node": target.node,
        "epoch": target.epoch,
        "in_force": seen is not None,
        "in_flight": seen.in_flight if seen is not None else None,
        "gpus": [
            {
                "index": gpu.index,
                "mode": gpu.mode,
                "instances": [{"profile": i.profile, "variant": i.variant} for i in gpu.instances],
                "told": str(gpu_configuration(gpu)),
                "changed": gpu.index in sent.changed,
                "phase": phases.get(gpu.index),
            }
            for gpu in target.gpus
        ],
    }


def _print(result: dict[str, Any]) -> None:
    if result.get("released"):
        print(f"{result['node']} is the controller's again")
        return
    state = "in force" if result["in_force"] else "sent"
    print(f"{result['node']}: epoch {result['epoch']} is {state}")
    for gpu in result["gpus"]:
        print(f"  gpu{gpu['index']}: {gpu['told']}{'' if gpu['changed'] else ' (as it was)'}")


def _sizes(board: GpuModel, text: str) -> tuple[str, ...]:
    """Return profile sizes in the order given, from a code (`4`) or a list (`4g+3g`) that fits on the board."""
    from mig.codes import multiset_of_code  # noqa: PLC0415 - keeps --help fast
    from mig.partition import layouts_of  # noqa: PLC0415

    if text.strip().isdigit():
        return multiset_of_code(board, int(text))
    sizes = tuple(board.profile(size.strip()).size for size in text.split("+"))
    layouts_of(board, sizes)
    return sizes


def _largest(application: str) -> str:
    from clover.catalog import load_application  # noqa: PLC0415 - keeps --help fast

    try:
        return load_application(application).largest.name
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; --variants is needed") from error
