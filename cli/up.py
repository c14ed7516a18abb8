"""`clover up`: a whole deployment on this host with one command."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from cli import arrival_options, carbon_options, options, recording
from cli.arrival_options import ArrivalChoice
from cli.batching_options import MaxBatchSize, MaxQueueDelay, tell_batching
from cli.doctor import RequireDurable
from cli.load_profile_options import LoadProfileBegins, LoadProfileChoice, LoadProfileFile
from cli.output import number, print_json, tell
from cli.recording import RunName, RunsDir
from cli.up_settings import check


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
    load_profile: LoadProfileFile = None,
    load_profile_begins: LoadProfileBegins = None,
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
    settings = check(
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
        load_profile=LoadProfileChoice(
            file=load_profile,
            begins=load_profile_begins,
            default_begins="generator" if generator else "midnight",
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
    files += [*settings.arrivals.files, *settings.load_profile.files]
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
    if tried := result["tried_live"]:
        tell(
            f"tried live  {tried['candidates']} candidates in {tried['seconds']:.0f} s, {tried['broke_sla']} broke the "
            f"SLA; {tried['late']} of {tried['requests']} requests late, {tried['energy_j']:.0f} J"
        )
