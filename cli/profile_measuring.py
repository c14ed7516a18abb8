"""Measuring for `clover profile`: the bench, the sweep with its progress, and the path that requests take."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli import real_models
from cli.output import tell

if TYPE_CHECKING:
    from clover.agents.bench import Bench
    from clover.agents.fleet import Fleet
    from clover.agents.sweep import SweepFile
    from clover.core.configuration import GpuConfiguration
    from clover.serving.port import Servicer

#: Mean pause between two requests whose path is measured, if nothing else was asked for, s.
_PATH_THINK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much is measured, see `clover.agents.bench.BenchSettings`."""

    requests: int
    warm_up: int
    limit_s: float
    think_s: float
    batch_size: int


async def sweep_cells(file: SweepFile, cells: list[GpuConfiguration], bench: Bench) -> None:
    """Measure with a line of progress per configuration and the time that is left."""
    from clover.agents.sweep import sweep  # noqa: PLC0415 - keeps --help fast
    from clover.core.profiling import figures  # noqa: PLC0415

    todo = sum(1 for cell in cells if not file.has(cell))
    if done := len(cells) - todo:
        tell(f"{done} of {len(cells)} configurations have been measured before")
    began_s, number = time.monotonic(), 0
    async for measured in sweep(file, cells, bench.measure):
        number += 1
        left_s = (time.monotonic() - began_s) / number * (todo - number)
        means = ", ".join(f"{figures('', i)['mean_ms']:.1f} ms" for i in measured.instances[:7])
        what = f"mean {means}" if measured.outcome == "ok" else f"{measured.outcome}: {measured.reason}"
        tell(f"{number}/{todo}  {measured.cell}: {what}; about {left_s:.0f} s left")


@contextlib.asynccontextmanager
async def bench_of(
    fleet: Fleet,
    app_name: str,
    gpus: int,
    weights: str,
    inputs: Path | None,
    amount: Amount,
) -> AsyncIterator[Bench]:
    """Give a bench on the fleet's backend; everything that it starts has ended afterwards."""
    from clover.agents.bench import Bench  # noqa: PLC0415 - keeps --help fast
    from clover.agents.bench_settings import BenchSettings  # noqa: PLC0415 - keeps --help fast
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415
    from mig.simulated import SimulatedGpu  # noqa: PLC0415

    change = fleet.model.table.change
    boards = [
        SimulatedGpu(
            fleet.board, index, seed=index, sleep=asyncio.sleep, create_s=change.create_s, destroy_s=change.destroy_s
        )
        for index in range(gpus)
    ]
    servicer = _servicer(fleet, app_name, weights, gpus, amount.batch_size)
    try:
        yield Bench(
            gpus=boards,
            servicer=servicer,
            application=fleet.model.application,
            inputs=real_models.inputs_of(fleet, inputs),
            clock=SystemClock(),
            settings=BenchSettings(
                requests=amount.requests,
                warm_up=amount.warm_up,
                limit_s=amount.limit_s,
                think_s=amount.think_s,
                batch_size=amount.batch_size,
            ),
        )
    finally:
        await servicer.close()


def _servicer(fleet: Fleet, app_name: str, weights: str, gpus: int, batch_size: int) -> Servicer:
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.serving.availability import require_models  # noqa: PLC0415
    from clover.serving.simulated import SimulatedServicer  # noqa: PLC0415

    if fleet.backend == "sim":
        # All instances are always busy in a closed loop.
        return SimulatedServicer(model=fleet.model, rng=Random(0), contention=lambda: 1.0)  # noqa: S311 - simulation
    require_models(fleet.model.application.servicer)
    return real_models.process_servicer(None, fleet, app=app_name, weights=weights, gpus=gpus, batch_size=batch_size)()


async def path_ms(fleet: Fleet, inputs: Path | None, amount: Amount) -> tuple[float, ...]:
    """Measure what a request takes beside its service, on a server of its own; nothing where service is simulated."""
    if fleet.backend == "sim":
        return ()
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.agents.path_bench import PathSettings, measure_path  # noqa: PLC0415
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415
    from clover.bus.embedded import EmbeddedServer  # noqa: PLC0415
    from clover.bus.redis import connect  # noqa: PLC0415

    tell("measuring the path of requests through a server")
    with tempfile.TemporaryDirectory(prefix="clover-path-") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            producer, node = (connect(server.url, "path", name) for name in ("producer", "node"))
            try:
                found = await measure_path(
                    producer=producer,
                    node=node,
                    model=fleet.model,
                    board=fleet.board,
                    inputs=real_models.inputs_of(fleet, inputs),
                    clock=SystemClock(),
                    rng=Random(0),  # noqa: S311 - ids and pauses
                    settings=PathSettings(think_s=amount.think_s or _PATH_THINK_S),
                )
            finally:
                for bus in (producer, node):
                    await bus.close()
    return tuple(found)
