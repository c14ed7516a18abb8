"""`clover agent generator`: requests from one process that keeps account of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from cli import arrival_options, options, real_models
from cli.agent_process import run_agent_process
from cli.fleets import fleet_of, rate_of
from cli.output import print_json

if TYPE_CHECKING:
    from clover.bus.port import Bus
    from clover.core.clock import Clock


def generator(
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Of this producer's reply stream (default: generator-<host>-<pid>).")
    ] = None,
    rate: options.Rate = None,
    arrivals: arrival_options.Process = "poisson",
    smoothness: arrival_options.Smoothness = 1.0,
    shape: arrival_options.Shape = "flat",
    period: arrival_options.Period = None,
    peak: arrival_options.Peak = None,
    load_trace: arrival_options.LoadTrace = None,
    speed: arrival_options.Speed = "1x",
    scale_to: arrival_options.ScaleTo = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of the fleet, for the default rate.")] = 10,
    duration: options.Duration = None,
    begin_at: Annotated[
        float,
        typer.Option("--begin-at", min=0.0, help="Leave out so many seconds of the schedule, to go on with it."),
    ] = 0.0,
    application: options.App = "albert",
    backend: options.Backend = "sim",
    board: options.Board = "a100-40gb",
    profile: options.Profile = None,
    inputs: options.Inputs = None,
    metrics_port: options.MetricsPort = None,
    seed: options.Seed = 0,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    as_json: options.Json = False,
) -> None:
    """Send requests (open loop; Poisson unless told) and account for every one of them.

    Examples: clover agent generator --rate 12.5 --duration 5m; clover agent generator --shape diurnal --period 8m
    """
    from random import Random  # noqa: PLC0415 - keeps --help fast

    from clover.agents.generator import Generator  # noqa: PLC0415
    from clover.agents.generator_settings import GeneratorSettings  # noqa: PLC0415
    from clover.core.arrivals import from_on  # noqa: PLC0415

    here = options.where(deployment, redis, state_dir, wait)
    fleet = fleet_of(application, backend, board, profile)
    choice = arrival_options.ArrivalChoice(
        process=arrivals,
        smoothness=smoothness,
        shape=shape,
        period_s=period,
        peak=peak,
        trace=load_trace,
        speed=speed,
        scale_to_rps=scale_to,
    )
    choice.check(rate=rate)
    load = choice.load(rate_rps=rate_of(rate, gpus, fleet), duration_s=duration)
    settings = GeneratorSettings(
        name=name or f"generator-{options.unique_name()}",
        application=fleet.model.application.name,
        rate_rps=load.rate_rps if load.mean_rps is None else load.mean_rps,
        duration_s=duration,
        arrivals=load.description,
        left_out_s=begin_at,
    )
    asked = real_models.inputs_of(fleet, inputs)
    made: list[Generator] = []

    def build(bus: Bus, clock: Clock) -> Callable[[asyncio.Event], Awaitable[None]]:
        rng = Random(f"{seed}/generator")  # noqa: S311 - ids
        times_s = from_on(load.times_s(seed), begin_at)
        made.append(Generator(settings, bus=bus, clock=clock, rng=rng, inputs=asked, times_s=times_s))

        async def run(stop: asyncio.Event) -> None:
            with options.metrics(metrics_port, made[0].metrics):
                await made[0].run(stop)

        return run

    run_agent_process(here, f"generator:{settings.name}", build)
    if as_json:
        print_json({"producer": settings.name, "requests": made[0].counts()})
