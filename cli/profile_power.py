"""`clover profile power`: what GPUs draw when nothing runs, and these figures in a performance table."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, real_models
from cli.output import print_json, tell
from cli.profile_files import write
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.power_bench import StatePower
    from clover.core.configuration import GpuConfiguration
    from clover.serving.port import Servicer
    from mig.profiles import GpuModel


def power(
    *,
    gpu: Annotated[list[int] | None, typer.Option("--gpu", min=0, help="Index of a GPU; repeatable (all).")] = None,
    partition: Annotated[str, typer.Option("--partition", help="Instances while loaded, such as 4g+3g.")] = "7g",
    variant: Annotated[str, typer.Option("--variant", help="Variant on them (default: largest).")] = "",
    window: Annotated[
        float,
        typer.Option("--window", parser=options.parse_duration, metavar="DURATION", help="Time to measure each state."),
    ] = "30s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    settle: Annotated[
        float,
        typer.Option("--settle", parser=options.parse_duration, metavar="DURATION", help="Rest before each."),
    ] = "5s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    models: Annotated[bool, typer.Option("--models/--no-models", help="Load models for the state `loaded`.")] = True,
    allow_reset: Annotated[
        bool, typer.Option("--allow-reset", help="Switch MIG mode off and on, although boards reset for it.")
    ] = False,
    into: Annotated[
        Path | None, typer.Option("--into", help="Performance table whose idle figures are replaced by these.")
    ] = None,
    application: options.App = "efficientnet_lite",
    board: options.Board = "a100-40gb",
    weights: options.Weights = "",
    helper: options.Helper = None,
    as_json: options.Json = False,
) -> None:
    """Measure idle power of real GPUs by their energy counter: MIG off and on, cut, with models loaded, parked.

    Nothing else may use the GPUs. Each is left as it was found.

    Example: clover profile power --gpu 0 --window 60s --into mine.json
    """
    from clover.catalog import load_application  # noqa: PLC0415 - keeps --help fast
    from clover.core.configuration import GpuConfiguration, InstanceKind  # noqa: PLC0415
    from clover.power.measure import Window  # noqa: PLC0415
    from mig.partition import parse_multiset  # noqa: PLC0415
    from mig.profiles import gpu_model  # noqa: PLC0415

    app = load_application(application)
    model = gpu_model(board)
    name = app.variant(variant).name if variant else app.largest.name
    cell = GpuConfiguration(tuple(InstanceKind(size, name) for size in parse_multiset(model, partition)))
    _check_table(into, app.name, board)
    length = Window(settle_s=settle, window_s=window, period_s=min(1.0, window))
    servicer = _servicer(application, weights) if models else None
    rows = asyncio.run(_measure(model, gpu, helper, cell, app.name, length, servicer, allow_reset=allow_reset))
    found = {"gpu_model": board, "application": app.name, "date": time.strftime("%Y-%m-%d"), "states": rows}
    if into is not None:
        found["table"] = str(into)
        found["replaced"] = _into(into, rows, found["date"])
    if as_json:
        print_json(found)
    else:
        _print(found)


async def _measure(
    model: GpuModel,
    chosen: list[int] | None,
    helper: Path | None,
    cell: GpuConfiguration,
    application: str,
    window: Any,
    servicer: Servicer | None,
    *,
    allow_reset: bool,
) -> list[dict[str, Any]]:
    """Measure GPU after GPU, so that none warms the other."""
    from clover.agents.nvml_node import check_usable, driver_gpus  # noqa: PLC0415 - keeps --help fast
    from clover.agents.power_bench import PowerBench  # noqa: PLC0415
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415
    from mig.managed import ManagedGpu  # noqa: PLC0415
    from mig.store import FileStore  # noqa: PLC0415

    rows: list[dict[str, Any]] = []
    async with contextlib.AsyncExitStack() as stack:
        if servicer is not None:
            stack.push_async_callback(servicer.close)
        gpus = {gpu.index: gpu for gpu in await stack.enter_async_context(driver_gpus(helper))}
        for index in sorted(gpus if chosen is None else chosen):
            if index not in gpus:
                raise ConfigurationError(f"--gpu {index}: expected one of {', '.join(map(str, gpus)) or 'none'}")
            check_usable(gpus[index], model.name)
            with ManagedGpu(gpus[index], FileStore()) as managed:
                bench = PowerBench(
                    managed,
                    servicer=servicer,
                    application=application,
                    cell=cell,
                    clock=SystemClock(),
                    window=window,
                    allow_reset=allow_reset,
                )
                async with contextlib.aclosing(bench.run()) as states:
                    async for state in states:
                        tell(_line(state))
                        rows.append(_row(state, gpus[index].uuid))
    return rows


def _servicer(application: str, weights: str) -> Servicer:
    """Return what starts workers on MIG devices; the energy of requests is of no interest here."""
    from clover.catalog import load_recipes  # noqa: PLC0415 - keeps --help fast
    from clover.serving.process import ProcessServicer  # noqa: PLC0415

    real_models.tell_weights(weights)
    return ProcessServicer(recipes=load_recipes(application, weights), table_j=lambda _variant: 0.0)


# --- results


def _row(state: StatePower, uuid: str) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    return {**msgspec.to_builtins(state), "uuid": uuid}


def _line(state: StatePower) -> str:
    if state.measured is None:
        return f"GPU {state.gpu} {state.state}: not measured: {state.reason}"
    found = state.measured
    return (
        f"GPU {state.gpu} {state.state}: {found.power_w:.1f} W (spread {found.spread_w:.1f} W, {found.seconds:.0f} s)"
    )


def _mean_w(rows: list[dict[str, Any]], state: str) -> float | None:
    found = [row["measured"]["power_w"] for row in rows if row["state"] == state and row["measured"]]
    return sum(found) / len(found) if found else None


def _check_table(into: Path | None, application: str, board: str) -> None:
    if into is None:
        return
    from clover.performance_tables import load_table  # noqa: PLC0415 - keeps --help fast

    load_table(application, board, path=into)


def _into(path: Path, rows: list[dict[str, Any]], date: str) -> dict[str, Any]:
    """Write what was measured into a table; what was not stays as it is."""
    from clover.performance_tables import read_table  # noqa: PLC0415 - keeps --help fast

    table = read_table(path)
    how = f"measured by the GPUs' energy counter (nvml), {date}"
    replaced: dict[str, Any] = {}
    for field, state in (("idle_power_w", "loaded"), ("parked_power_w", "parked")):
        watts = _mean_w(rows, state)
        if watts is not None:
            replaced[field] = {"before": table[field], "after": round(watts, 2), "source": how}
            table[field] = round(watts, 2)
    if "parked_power_w" in replaced:
        table["parked_power_source"] = how
    table["measurement"] = {**table["measurement"], "power": {"date": date, "how": how, "states": rows}}
    write(path, table)
    return replaced


def _print(found: dict[str, Any]) -> None:
    for field, change in found.get("replaced", {}).items():
        print(f"{found['table']}: {field} {change['before']:g} W -> {change['after']:g} W, {change['source']}")
    for state, what in (("loaded", "idle"), ("parked", "parked")):
        watts = _mean_w(found["states"], state)
        print(f"{what:<8} {'not measured' if watts is None else f'{watts:.1f} W'} ({found['gpu_model']})")
