"""`clover generate`: load on a running deployment, and an account of it that can be trusted."""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import arrival_options, options
from cli.arrival_options import ArrivalChoice
from cli.recording import RunName, RunsDir
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.core.criteria import Condition
    from clover.core.rate_search import Promise
    from clover.core.schedule import Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """What `generate` was asked for, checked as far as that needs no deployment.

    Attributes:
        where: Deployment and server.
        arrivals, concurrency: When requests are due; users of a closed loop, 0 for an open one.
        mix: What requests ask for.
        duration_s, count, warmup_s: How long.
        rate_rps: None takes the rate that the deployment is planned for.
        app, inputs: For real models.
        processes: Generator processes.
        fail_if: Conditions that must not hold.
        promise: What to search the highest rate for; None for one load test.
        samples, tolerance: Of that search.
        keep_requests: Whether each request is written to the run folder.
        archive: Whether the deployment's tables are archived there.
        seed, runs_dir, run_name, as_json: As everywhere.
    """

    where: options.Where
    arrivals: ArrivalChoice
    mix: Mix
    concurrency: int
    duration_s: float | None
    count: int | None
    warmup_s: float
    rate_rps: float | None
    app: str
    inputs: Path | None
    processes: int
    fail_if: tuple[Condition, ...]
    promise: Promise | None
    samples: int | None
    tolerance: float
    keep_requests: bool
    archive: bool
    seed: int
    runs_dir: Path | None
    run_name: str | None
    as_json: bool


def generate(
    context: typer.Context,
    *,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Mean rate, requests/s (default: what the deployment is planned for)."),
    ] = None,
    arrivals: arrival_options.Process = "poisson",
    smoothness: arrival_options.Smoothness = 1.0,
    shape: arrival_options.Shape = "flat",
    period: arrival_options.Period = None,
    peak: arrival_options.Peak = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--load-trace", "--trace", help="Arrivals of the past: a CSV file of ours or of Azure (docs/load.md)."
        ),
    ] = None,
    speed: arrival_options.Speed = "1x",
    scale_to: arrival_options.ScaleTo = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=0, help="Closed loop: so many users, one request each at a time.")
    ] = 0,
    priority_share: Annotated[
        float, typer.Option("--priority-share", help="Share (0 to 1) of requests of high priority.")
    ] = 0.0,
    min_accuracy: Annotated[
        list[str] | None,
        typer.Option("--min-accuracy", help="Least accuracy in %, of all or of a share: 85 or 85:0.2; repeatable."),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration", parser=options.parse_duration, metavar="DURATION", help="How long, after the warm-up."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="How many requests, after the warm-up.")] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            "--warmup", parser=options.parse_duration, metavar="DURATION", help="Sent before, and not counted."
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="Exit with 10 if this holds: 'p95>180ms', 'late>5%', 'lost>0'; repeatable."),
    ] = None,
    find_max: Annotated[
        str | None, typer.Option("--find-max", help="Search the highest rate that keeps 'late<5%' or 'p99<200ms'.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="find-max: requests per trial (default: as MLPerf's rules ask for)."),
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", help="find-max: how close, relative.")] = 0.05,
    processes: Annotated[int, typer.Option("--processes", min=1, max=64, help="Generator processes.")] = 1,
    keep_requests: Annotated[
        bool, typer.Option("--requests/--no-requests", help="Write each request to the run folder.")
    ] = True,
    archive: Annotated[
        bool,
        typer.Option(
            "--archive/--no-archive",
            help="Archive the deployment's tables in the run folder (docs/analysis.md); not with --find-max.",
        ),
    ] = True,
    application: Annotated[str, typer.Option("--app", help="Application of your own (.toml), for its inputs.")] = "",
    inputs: options.Inputs = None,
    seed: options.Seed = 0,
    runs_dir: RunsDir = None,
    run_name: RunName = None,
    deployment: options.Deployment = "clover",
    redis: options.Redis = None,
    state_dir: options.StateDir = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            parser=options.parse_duration,
            metavar="DURATION",
            help="Longest wait for the server and its plan (default: not for the server, 60s for the plan).",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Send requests to a running deployment and account for every one of them; open loop unless --concurrency is given.

    Latency runs from when a request was due, not from when it was sent. One Ctrl-C stops the sending: answers are
    waited for, and accounted for; a second one ends it at once. The exit code is 130 after both.

    Examples: clover generate --rate 12 --duration 5m --warmup 30s --fail-if 'p95>180ms' --fail-if 'lost>0';
    clover generate --trace day.csv --speed 60x --scale-to 20; clover generate --find-max 'late<5%' --samples 3000
    """
    settings = GenerateSettings(
        where=options.where(deployment, redis, state_dir, wait or 0.0),
        arrivals=ArrivalChoice(
            process=arrivals,
            smoothness=smoothness,
            shape=shape,
            period_s=period,
            peak=peak,
            trace=trace,
            speed=speed,
            scale_to_rps=scale_to,
        ),
        mix=_mix(priority_share, min_accuracy or []),
        concurrency=concurrency,
        duration_s=duration,
        count=count,
        warmup_s=warmup or 0.0,
        rate_rps=rate,
        app=application,
        inputs=inputs,
        processes=processes,
        fail_if=_conditions(fail_if or []),
        promise=_promise(find_max),
        samples=samples,
        tolerance=options.check_positive("--tolerance", tolerance),
        keep_requests=keep_requests and find_max is None,
        archive=archive and find_max is None,
        seed=seed,
        runs_dir=runs_dir,
        run_name=run_name,
        as_json=as_json,
    )
    _check(settings)
    from cli.generate_run import INTERRUPTED, GenerateRun  # noqa: PLC0415 - keeps --help fast

    try:
        code = asyncio.run(GenerateRun(context, settings).run())
    except asyncio.CancelledError:
        code = INTERRUPTED
    if code:
        sys.exit(code)


def _check(settings: GenerateSettings) -> None:
    """Refuse what contradicts itself."""
    chosen = settings.arrivals
    chosen.check(rate=settings.rate_rps)
    kinds = [
        ("--concurrency", settings.concurrency > 0),
        ("--load-trace", chosen.trace is not None),
        ("--shape", chosen.shape != "flat"),
    ]
    given = [name for name, is_given in kinds if is_given]
    if len(given) > 1:
        raise ConfigurationError(f"{given[0]} and {given[1]}: expected one of them")
    if given and settings.promise is not None:
        raise ConfigurationError(f"--find-max and {given[0]}: the search needs an open loop of constant rate")
    if settings.rate_rps is not None and settings.concurrency:
        raise ConfigurationError(
            "--rate and --concurrency: expected one of them", hint="a closed loop has no rate of its own"
        )
    if 0 < settings.concurrency < settings.processes:
        raise ConfigurationError(
            f"--processes = {settings.processes}: expected at most --concurrency = {settings.concurrency}"
        )


def _mix(high_share: float, min_accuracies: list[str]) -> Mix:
    from clover.core.schedule import Mix  # noqa: PLC0415 - keeps --help fast

    pairs: list[tuple[float, float]] = []
    for text in min_accuracies:
        accuracy, colon, share = text.partition(":")
        try:
            pairs.append((float(accuracy), float(share) if colon else 1.0))
        except ValueError:
            raise ConfigurationError(f"--min-accuracy = {text!r}: expected such as 85 or 85:0.2") from None
        if not (math.isfinite(pairs[-1][0]) and 0.0 <= pairs[-1][0] <= 100.0):
            raise ConfigurationError(f"--min-accuracy = {text!r}: expected an accuracy from 0 to 100 %")
    try:
        return Mix(high_share=high_share, min_accuracies=tuple(pairs))
    except ValueError as error:
        raise ConfigurationError(f"--priority-share, --min-accuracy: {error}") from None


def _conditions(texts: list[str]) -> tuple[Condition, ...]:
    from clover.core.criteria import parse_condition  # noqa: PLC0415 - keeps --help fast

    return tuple(parse_condition(text, option="--fail-if") for text in texts)


def _promise(text: str | None) -> Promise | None:
    from clover.core.criteria import parse_condition  # noqa: PLC0415 - keeps --help fast
    from clover.core.rate_search import promise_of  # noqa: PLC0415

    if text is None:
        return None
    return promise_of(parse_condition(text, option="--find-max"), option="--find-max")
