"""`clover up`: a whole deployment on this host with one command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import arrival_options, carbon_options, options, real_models, recording
from cli.arrival_options import ArrivalChoice
from cli.batching_options import MaxBatchSize, MaxQueueDelay, batching_arguments, batching_of, tell_batching
from cli.doctor import RequireDurable
from cli.output import number, print_json, tell
from cli.recording import RunName, RunsDir
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.assembly import Fleet
    from clover.agents.decision import Goals


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What `up` was asked for, checked.

    Attributes:
        where: Deployment and server.
        gpus: GPUs per node.
        rate_rps: Mean arrival rate, which is planned for at first.
        arrivals: When requests are due.
        goals: What is asked of the planner.
        park_w: Power of a parked GPU in W, None for the table's.
        shared: Options that every agent gets.
        node_options: Options that node agents get beside.
        batches: Options that node agents and controller get beside: how requests are served together.
        carbon, pue: Grid.
        scheme, faithful, evaluate: Planning.
        duration_s: How long requests become due, None until stopped.
        metrics_port: Of the carbon monitor; nodes, controller and generator have the ports after it. None: no metrics.
        seed: Of everything random.
        dashboard: Whether to draw the dashboard where there is a terminal.
        as_json: Whether the summary is JSON.
        own_load: Whether it sends requests of its own.
        require_durable: Whether a server that may lose data is refused.
        batching: How requests are served together, in words; empty if each is served alone.
        environment: Settings that only some agents know, as environment variables.
    """

    where: options.Where
    gpus: tuple[int, ...]
    rate_rps: float
    arrivals: ArrivalChoice
    goals: Goals
    park_w: float | None
    shared: tuple[str, ...]
    node_options: tuple[str, ...]
    batches: tuple[str, ...]
    carbon: carbon_options.CarbonChoice
    pue: float
    scheme: str
    faithful: bool
    evaluate: str
    duration_s: float | None
    metrics_port: int | None
    seed: int
    dashboard: bool
    as_json: bool
    require_durable: bool
    own_load: bool
    batching: str
    environment: Mapping[str, str] = field(default_factory=dict)


def up(
    context: typer.Context,
    *,
    application: options.App = "albert",
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, max=1000, help="GPUs in all (default 10; cpu: cores - 1).", envvar="CLOVER_GPUS"),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes", min=1, max=64, help="Nodes to spread them over (default 2; cpu: 1).", envvar="CLOVER_NODES"
        ),
    ] = None,
    board: options.Board = "a100-40gb",
    backend: options.Backend = "sim",
    helper: options.Helper = None,
    scheme: options.Scheme = "exact",
    carbon: carbon_options.SourceName = "trace",
    carbon_url: carbon_options.Url = None,
    carbon_zone: carbon_options.Zone = None,
    carbon_fallback: carbon_options.Fallback = carbon_options.DEFAULT_FALLBACK,
    carbon_poll: carbon_options.Poll = None,
    carbon_max_age: carbon_options.MaxAge = None,
    trace: options.Trace = "ciso-march",
    replay: carbon_options.Replay = "step,wrap",
    hour: options.Hour = "20s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    rate: options.Rate = None,
    arrivals: arrival_options.Process = "poisson",
    smoothness: arrival_options.Smoothness = 1.0,
    shape: arrival_options.Shape = "flat",
    period: arrival_options.Period = None,
    peak: arrival_options.Peak = None,
    load_trace: arrival_options.LoadTrace = None,
    speed: arrival_options.Speed = "1x",
    scale_to: arrival_options.ScaleTo = None,
    lambda_: options.Lambda = 0.5,
    accuracy_floor: options.AccuracyFloor = None,
    carbon_budget: options.CarbonBudget = None,
    parking: options.Parking = "parked",
    park_w: options.ParkW = None,
    reserve: options.Reserve = 0,
    power_off: options.PowerOff = "",
    power_on: options.PowerOn = "",
    power_limit: options.PowerLimit = "5m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    sla: options.Sla = None,
    pue: options.Pue = 1.5,
    profile: options.Profile = None,
    weights: options.Weights = "",
    inputs: options.Inputs = None,
    input_root: options.InputRoots = None,
    max_batch_size: MaxBatchSize = 1,
    max_queue_delay: MaxQueueDelay = None,
    faithful: options.Faithful = False,
    evaluate: options.Evaluate = "model",
    duration: options.Duration = None,
    metrics_port: options.MetricsPort = None,
    seed: options.Seed = 0,
    require_durable: RequireDurable = False,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    generator: Annotated[
        bool,
        typer.Option(
            "--generator/--no-generator",
            help="Send requests of its own at --rate; without, --rate is what is planned for, "
            "and the load comes from `clover generate`.",
        ),
    ] = True,
    runs_dir: RunsDir = None,
    run_name: RunName = None,
    archive: Annotated[
        bool, typer.Option("--archive/--no-archive", help="Archive the run's tables in its folder (docs/analysis.md).")
    ] = True,
    no_tui: Annotated[bool, typer.Option("--no-tui", help="No dashboard: a status line now and then.")] = False,
    as_json: options.Json = False,
) -> None:
    """Start server, nodes, carbon monitor, controller and generator; show what they do; print a summary at the end.

    Ctrl-C lets the requests in work finish; a second one ends everything at once (exit code 130).

    Examples: clover up; clover up --app yolov5 --trace eso-march; clover up --duration 2m --no-tui --json
    """
    settings = _check(
        where=options.where(deployment, redis, state_dir),
        application=application,
        gpus=gpus,
        nodes=nodes,
        board=board,
        backend=backend,
        helper=helper,
        scheme=scheme,
        carbon=carbon_options.CarbonChoice(
            source=carbon,
            trace=trace,
            hour_s=hour,
            replay=replay,
            url=carbon_url,
            zone=carbon_zone,
            fallback=carbon_fallback,
            poll_s=carbon_poll,
            max_age_s=carbon_max_age,
        ),
        rate=rate,
        arrivals=ArrivalChoice(
            process=arrivals,
            smoothness=smoothness,
            shape=shape,
            period_s=period,
            peak=peak,
            trace=load_trace,
            speed=speed,
            scale_to_rps=scale_to,
        ),
        lambda_=lambda_,
        asks={"accuracy_floor": accuracy_floor, "carbon_budget": carbon_budget, "parking": parking, "reserve": reserve},
        park_w=park_w,
        power=(power_off, power_on, power_limit),
        sla=sla,
        pue=pue,
        profile=profile,
        weights=weights,
        inputs=inputs,
        input_roots=input_root or [],
        served_together=(max_batch_size, max_queue_delay),
        faithful=faithful,
        evaluate=evaluate,
        duration_s=duration,
        metrics_port=metrics_port,
        seed=seed,
        dashboard=not (no_tui or as_json),
        as_json=as_json,
        require_durable=require_durable,
        own_load=generator,
    )
    from cli.session import UpSession  # noqa: PLC0415 - keeps --help fast
    from clover.analysis.load import ARCHIVE  # noqa: PLC0415

    files = [("performance table", profile)] if profile is not None else []
    files += settings.arrivals.files
    if carbon == "trace":
        files += recording.carbon_files(trace)
    plan = recording.RunPlan(
        command="up",
        runs=runs_dir,
        name=run_name,
        deployment=deployment,
        seed=seed,
        hardware=recording.hardware(backend, board, settings.gpus),
        inputs=files,
    )
    with recording.recorded(context, plan) as run:
        session = UpSession(settings, archive=run.folder.path / ARCHIVE if archive else None)
        result: dict[str, Any] = asyncio.run(session.run()) | {"run": str(run.folder.path)}
        run.interrupted = session.interrupted
        run.folder.describe(hardware=session.hardware(run.folder.record.hardware))
        if as_json:
            print_json(result)
        else:
            _print_summary(result)
        run.summary(result)
    if session.interrupted:
        sys.exit(130)
    if result["requests"]["lost"]:
        sys.exit(11)


def _check(
    *,
    where: options.Where,
    application: str,
    gpus: int | None,
    nodes: int | None,
    board: str,
    backend: str,
    helper: Path | None,
    scheme: str,
    carbon: carbon_options.CarbonChoice,
    rate: float | None,
    arrivals: ArrivalChoice,
    sla: str | None,
    profile: Path | None,
    weights: str,
    inputs: Path | None,
    input_roots: list[str],
    served_together: tuple[int, float | None],
    lambda_: float,
    asks: dict[str, Any],
    park_w: float | None,
    power: tuple[str, str, float],
    pue: float,
    seed: int,
    **rest: Any,
) -> UpSettings:
    """Refuse what cannot work before anything is started."""
    from clover.agents.assembly import checked_evaluate  # noqa: PLC0415 - keeps --help fast
    from clover.plan.schemes import make_scheme  # noqa: PLC0415

    options.check_goals(lambda_, pue)
    make_scheme(scheme, seed=seed)
    fleet = options.fleet(application, backend, board, profile, park_w)
    carbon.check()
    real_models.inputs_of(fleet, inputs)
    count = _gpus(gpus, backend, helper, board)
    spread = options.spread_gpus(count, nodes or (min(2, count) if backend == "sim" else 1))
    if backend == "nvml" and len(spread) > 1:
        raise ConfigurationError(
            "--nodes: a host with real GPUs is one node", hint="Start `clover agent node` on others."
        )
    if backend != "sim":
        real_models.process_servicer(None, fleet, app=application, weights=weights)
        real_models.tell_weights(weights)
    goals = options.goals(fleet, lambda_=lambda_, sla=sla, gpus=count, **asks)
    checked_evaluate(rest["evaluate"], scheme, goals)
    batching = batching_of(fleet, *served_together, sla_ms=goals.sla_ms)
    if backend == "cpu":
        real_models.check_memory(workers=count * fleet.board.compute_slices, each_mb=real_models.worker_mb(application))
    shared = [
        "--app",
        real_models.absolute_app(application),
        "--backend",
        backend,
        "--gpu-model",
        board,
        "--seed",
        str(seed),
    ]
    if profile is not None:
        shared += ["--profile", str(profile.resolve())]
    node_options = _power_options(power, backend, goals.parking)
    if helper is not None:
        node_options += ("--helper", str(helper.resolve()))
    return UpSettings(
        where=where,
        gpus=spread,
        rate_rps=_rate(arrivals, rate, count, fleet, rest["duration_s"]),
        arrivals=arrivals,
        goals=goals,
        park_w=park_w,
        shared=tuple(shared),
        node_options=node_options,
        batches=batching_arguments(batching),
        carbon=carbon,
        pue=pue,
        scheme=scheme,
        seed=seed,
        batching=batching.text,
        environment=_environment(weights, inputs, input_roots),
        **rest,
    )


def _rate(arrivals: ArrivalChoice, rate: float | None, gpus: int, fleet: Fleet, duration_s: float | None) -> float:
    """Return the mean arrival rate; reads a trace of arrivals, so that a broken one is said before anything starts."""
    arrivals.check(rate=rate)
    load = arrivals.load(rate_rps=options.rate_of(rate, gpus, fleet), duration_s=duration_s)
    return load.rate_rps if load.mean_rps is None else load.mean_rps


def _power_options(power: tuple[str, str, float], backend: str, parking: str) -> tuple[str, ...]:
    """Return what nodes must know to switch GPUs off and on; refuse to plan so where they cannot."""
    from clover.agents.power_switch import power_switch, require_hooks  # noqa: PLC0415 - keeps --help fast

    off, on, limit_s = power
    require_hooks(backend, parking, off=off)
    power_switch("", off=off, on=on, limit_s=limit_s)
    return ("--power-off", off, "--power-on", on, "--power-limit", f"{limit_s}s") if off.strip() else ()


def _environment(weights: str, inputs: Path | None, input_roots: list[str]) -> dict[str, str]:
    """Return what nodes and generator must know of real models, as they read it from the environment."""
    found = weights if weights in {"", "random"} else str(Path(weights).resolve())
    values = {
        "CLOVER_WEIGHTS": found,
        "CLOVER_INPUTS": str(inputs.resolve()) if inputs else "",
        # Click splits a list in the environment at white space.
        "CLOVER_INPUT_ROOTS": " ".join(input_roots),
    }
    return {name: value for name, value in values.items() if value}


def _gpus(given: int | None, backend: str, helper: Path | None, board: str) -> int:
    """Return how many GPUs there shall be; of real ones at most those that can be used."""
    if backend != "nvml":
        return given or (options.default_gpus(backend) if backend == "cpu" else 10)
    from clover.agents.nvml_node import count_usable  # noqa: PLC0415 - needed for this backend only

    usable = asyncio.run(count_usable(helper, board))
    if given is not None and given > usable:
        raise ConfigurationError(f"--gpus = {given}: expected at most the {usable} that can be used here")
    return given or usable


def _print_summary(result: dict[str, Any]) -> None:
    requests, predicted = result["requests"], result["predicted"]
    outcomes = ", ".join(f"{name} {count}" for name, count in requests.items() if count)
    tell(f"requests    {outcomes or 'none'} ({result['arrivals'] or 'no load'})")
    tell(
        f"latency     p95 {number(result['p95_ms'], ' ms')} (SLA {result['sla_p95_ms']:g} ms), "
        f"late {number(result['late_pct'], ' %', 2)}; predicted p95 {number(predicted['p95_ms'], ' ms')}"
    )
    tell(
        f"accuracy    {number(result['accuracy_pct'], ' %', 2)}; predicted {number(predicted['accuracy_pct'], ' %', 2)}"
    )
    tell(
        f"energy      {number(result['energy_j_per_request'], ' J', 2)} per request ({result['energy_source']}); "
        f"predicted {number(predicted['energy_j_per_request'], ' J', 2)}"
    )
    tell(
        f"carbon      {number(result['footprint_g'], ' g', 2)} in all; "
        f"saved {number(result['saved_pct'], ' %')} against BASE, "
        f"{number(result['saved_pct_rightsized'], ' %')} against right-sized BASE (both modelled); "
        f"predicted {number(predicted['saved_pct'], ' %')}"
    )
    if result["baseline_feasible"] is False:
        tell(
            f"            BASE itself would be late for {number(result['baseline_late_pct'], ' %')}: "
            "not a fair comparison"
        )
    tell_batching(result["batching"])
    tell(
        f"decisions   {result['replans']} replans, {result['reconfigurations']} reconfigurations, "
        f"{result['mig_changes']} MIG changes, {number(result['change_s_total'], ' s')} changing"
    )
