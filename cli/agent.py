"""`clover agent ...`: one agent as one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from cli import carbon_options, options, real_models
from cli.agent_controller import controller
from cli.agent_generator import generator
from cli.agent_process import run_agent_process
from cli.batching_options import MaxBatchSize, MaxQueueDelay, batching_of
from cli.fleets import default_gpus, fleet_of
from cli.goals import check_goals

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from prometheus_client.core import Metric

    from clover.agents.node import NodeAgent
    from clover.bus.port import Bus
    from clover.core.clock import Clock


app = typer.Typer(no_args_is_help=True)

DEFAULT_WAIT_S = 60.0


@app.command()
def node(
    *,
    name: Annotated[str | None, typer.Option("--name", help="Name of the node (default: the host's).")] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, max=64, help="GPUs of this node (cpu: cores - 1; nvml: all that can be used)."),
    ] = None,
    application: options.App = "albert",
    backend: options.Backend = "sim",
    board: options.Board = "a100-40gb",
    helper: options.Helper = None,
    profile: options.Profile = None,
    weights: options.Weights = "",
    input_root: options.InputRoots = None,
    first_core: Annotated[
        int, typer.Option("--first-core", min=1, help="cpu: core of the first emulated GPU, each has one.")
    ] = 1,
    max_batch_size: MaxBatchSize = 1,
    max_queue_delay: MaxQueueDelay = None,
    park_w: options.ParkW = None,
    power_off: options.PowerOff = "",
    power_on: options.PowerOn = "",
    power_limit: options.PowerLimit = "5m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    metrics_port: options.MetricsPort = None,
    seed: options.Seed = 0,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
) -> None:
    """Serve requests on the GPUs of this host.

    Examples: clover agent node --name n1 --gpus 5; clover agent node --backend nvml --app efficientnet_lite
    """
    from clover.agents.assembly import make_node, run_nvml_node  # noqa: PLC0415 - keeps --help fast
    from clover.agents.metrics import node_metrics  # noqa: PLC0415
    from clover.agents.node import NodeSettings  # noqa: PLC0415
    from clover.agents.power_switch import power_switch  # noqa: PLC0415
    from clover.agents.survivors import WorkerRecord  # noqa: PLC0415

    here = options.where(deployment, redis, state_dir, wait)
    fleet = fleet_of(application, backend, board, profile, park_w)
    node_name = name or options.host_name()
    count = gpus or default_gpus(backend)
    folder = here.state_folder / here.deployment
    record = WorkerRecord(folder, node_name)
    batching = batching_of(fleet, max_batch_size, max_queue_delay)
    servicer = (
        real_models.process_servicer(
            record,
            fleet,
            app=application,
            weights=weights,
            log_folder=folder / "logs",
            input_roots=input_root,
            gpus=count,
            first_core=first_core,
            batch_size=batching.max_batch_size,
        )
        if backend != "sim"
        else None
    )
    real_models.tell_weights(weights)
    power = power_switch(node_name, off=power_off, on=power_on, limit_s=power_limit)
    settings = NodeSettings(name=node_name, backend=backend, power=power, batching=batching)

    def measured(agent: NodeAgent) -> AbstractContextManager[None]:
        return options.metrics(metrics_port, lambda: node_metrics(agent.telemetry))

    def build(bus: Bus, clock: Clock) -> Callable[[asyncio.Event], Awaitable[None]]:
        if backend == "nvml" and (real := servicer) is not None:
            return lambda stop: run_nvml_node(
                settings,
                fleet=fleet,
                helper=helper,
                gpus=gpus,
                bus=bus,
                clock=clock,
                seed=seed,
                servicer=real,
                stop=stop,
                state_folder=here.state_folder / here.deployment,
                beside=measured,
            )
        agent = make_node(
            settings,
            fleet=fleet,
            gpus=count,
            bus=bus,
            clock=clock,
            seed=seed,
            servicer=servicer,
            state_folder=here.state_folder / here.deployment,
        )

        async def run(stop: asyncio.Event) -> None:
            with measured(agent):
                await agent.run(stop)

        return run

    record.end_survivors()
    run_agent_process(here, f"node:{node_name}", build)


@app.command()
def carbon(
    *,
    source: carbon_options.SourceName = "trace",
    url: carbon_options.Url = None,
    zone: carbon_options.Zone = None,
    fallback: carbon_options.Fallback = carbon_options.DEFAULT_FALLBACK,
    poll: carbon_options.Poll = None,
    max_age: carbon_options.MaxAge = None,
    trace: options.Trace = "ciso-march",
    replay: carbon_options.Replay = "step,wrap",
    hour: options.Hour = "1h",  # pyright: ignore[reportArgumentType] - parsed like a flag
    pue: options.Pue = 1.5,
    application: options.App = "albert",
    backend: options.Backend = "sim",
    board: options.Board = "a100-40gb",
    profile: options.Profile = None,
    metrics_port: options.MetricsPort = None,
    seed: options.Seed = 0,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType]
) -> None:
    """Publish the grid's carbon intensity and keep the ledger of joules and grams.

    Examples: clover agent carbon --trace ciso-march --hour 20s; clover agent carbon --carbon neso --carbon-zone GB-13
    """
    from clover.agents.assembly import make_carbon_monitor  # noqa: PLC0415 - keeps --help fast
    from clover.agents.carbon_monitor import CarbonSettings  # noqa: PLC0415
    from clover.agents.metrics import carbon_metrics  # noqa: PLC0415

    here = options.where(deployment, redis, state_dir, wait)
    check_goals(0.5, pue)
    choice = carbon_options.CarbonChoice(
        source=source,
        trace=trace,
        hour_s=hour,
        replay=replay,
        url=url,
        zone=zone,
        fallback=fallback,
        poll_s=poll,
        max_age_s=max_age,
    )
    choice.check()
    settings = CarbonSettings(
        pue=pue,
        idle_power_w=fleet_of(application, backend, board, profile).model.table.idle_power_w,
    )

    def build(bus: Bus, clock: Clock) -> Callable[[asyncio.Event], Awaitable[None]]:
        feed = choice.feed(clock, cache_folder=here.state_folder / here.deployment, seed=seed)
        monitor = make_carbon_monitor(settings, source=feed, bus=bus, clock=clock, seed=seed)

        async def run(stop: asyncio.Event) -> None:
            def told() -> list[Metric]:
                return carbon_metrics(monitor.intensity, monitor.reading, monitor.parts, clock.now_ms())

            with options.metrics(metrics_port, told):
                await monitor.run(stop)

        return run

    run_agent_process(here, "carbon", build)


app.command()(controller)
app.command()(generator)
