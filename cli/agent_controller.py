"""`clover agent controller`: one controller as one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated

import typer

from cli import arrival_options, load_profile_options, options
from cli.agent_process import run_agent_process
from cli.batching_options import MaxBatchSize, MaxQueueDelay, batching_of
from cli.fleets import fleet_of, rate_of
from cli.goals import goals_of

if TYPE_CHECKING:
    from clover.bus.port import Bus
    from clover.core.clock import Clock


def controller(
    *,
    name: Annotated[str | None, typer.Option("--name", help="Name of the controller (default: host and pid).")] = None,
    expect_nodes: Annotated[int, typer.Option("--expect-nodes", min=1, help="Nodes to wait for at first.")] = 1,
    scheme: options.Scheme = "exact",
    lambda_: options.Lambda = 0.5,
    accuracy_floor: options.AccuracyFloor = None,
    carbon_budget: options.CarbonBudget = None,
    parking: options.Parking = "parked",
    park_w: options.ParkW = None,
    reserve: options.Reserve = 0,
    sla: options.Sla = None,
    rate: options.Rate = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of the fleet, for the default rate.")] = 10,
    load_profile: load_profile_options.LoadProfileFile = None,
    load_profile_begins: load_profile_options.LoadProfileBegins = None,
    speed: arrival_options.Speed = "1x",
    scale_to: arrival_options.ScaleTo = None,
    evaluate: options.Evaluate = "model",
    faithful: options.Faithful = False,
    application: options.App = "albert",
    backend: options.Backend = "sim",
    board: options.Board = "a100-40gb",
    profile: options.Profile = None,
    max_batch_size: MaxBatchSize = 1,
    max_queue_delay: MaxQueueDelay = None,
    metrics_port: options.MetricsPort = None,
    seed: options.Seed = 0,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: options.Wait = "60s",  # pyright: ignore[reportArgumentType]
) -> None:
    """Decide what every GPU shall be and send it to the nodes.

    Examples: clover agent controller --scheme exact --expect-nodes 2 --rate 12.5;
    clover agent controller --load-profile day.csv
    """
    from clover.agents.assembly import checked_evaluate, make_controller  # noqa: PLC0415 - keeps --help fast
    from clover.agents.controller_settings import ControllerSettings  # noqa: PLC0415
    from clover.agents.plan_metrics import PlanWatch  # noqa: PLC0415
    from clover.agents.planner import in_a_yielding_thread  # noqa: PLC0415
    from clover.core.identifiers import uuid7  # noqa: PLC0415
    from clover.plan.schemes import make_scheme  # noqa: PLC0415

    here = options.where(deployment, redis, state_dir, wait)
    make_scheme(scheme, seed=seed)
    fleet = fleet_of(application, backend, board, profile, park_w)
    goals = goals_of(
        fleet,
        lambda_=lambda_,
        sla=sla,
        parking=parking,
        reserve=reserve,
        accuracy_floor=accuracy_floor,
        carbon_budget=carbon_budget,
        gpus=gpus,
    )
    checked_evaluate(evaluate, scheme, goals)
    batching = batching_of(fleet, max_batch_size, max_queue_delay, sla_ms=goals.sla_ms)
    fleet = replace(fleet, model=batching.planned_with(fleet.model))
    # Emulated GPUs are cores of this host: planning must not slow what serves on them.
    compute = in_a_yielding_thread() if backend == "cpu" else asyncio.to_thread
    known = load_profile_options.LoadProfileChoice(
        file=load_profile, begins=load_profile_begins, speed=speed, scale_to_rps=scale_to
    )
    arrival_options.ArrivalChoice(speed=speed, scale_to_rps=scale_to).check(
        rate=rate, profiled=load_profile is not None
    )
    settings = ControllerSettings(
        name=name or options.unique_name(),
        rate_rps=rate_of(rate, gpus, fleet),
        expected_nodes=expect_nodes,
        load_profile=known.rates(),
        load_begins=known.from_when,
    )

    def build(bus: Bus, clock: Clock) -> Callable[[asyncio.Event], Awaitable[None]]:
        agent = make_controller(
            settings,
            fleet=fleet,
            scheme=scheme,
            goals=goals,
            faithful=faithful,
            bus=bus,
            clock=clock,
            seed=seed,
            compute=compute,
            evaluate=evaluate,
            # Not of the seed: whoever is started twice with the same options is still two.
            boot_id=uuid7(clock.now_ms(), SystemRandom()),
        )

        async def run(stop: asyncio.Event) -> None:
            watch = PlanWatch(bus, agent.holder)
            with options.metrics(metrics_port, watch.metrics):
                await (agent.run(stop) if metrics_port is None else watch.beside(agent.run(stop)))

        return run

    run_agent_process(here, f"controller:{settings.name}", build)
