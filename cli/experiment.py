"""`clover experiment`: schemes x applications x traces x loads x lambda x parking, modelled."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cli import options, planning, recording
from cli.experiment_text import print_results
from cli.fleets import fleet_of, spread_gpus
from cli.goals import check_goals, sla_of
from cli.output import print_json, tell
from cli.recording import RunName, RunsDir
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.analysis.experiment import Task
    from clover.analysis.experiment_rows import Result
    from clover.core.intensity_trace import IntensityTrace
    from clover.plan.problem import Parking

_PARKING = ("none", "parked", "off")


def _many(name: str, text: str, default: str) -> Any:
    return typer.Option(name, help=f"{text} Separated by commas; {default}.")


def experiment(
    context: typer.Context,
    *,
    schemes: Annotated[
        str, _many("--schemes", "Schemes to compare.", "all = every one, static and clover_live included")
    ] = "base,base_rightsized,clover,oracle,exact",
    applications: Annotated[str, _many("--apps", "Applications.", "all = every one")] = "all",
    traces: Annotated[
        str, _many("--traces", "Carbon traces: names, CSV files, constant:<gCO2e/kWh>.", "all = the three of 48 hours")
    ] = "ciso-march",
    loads: Annotated[str, _many("--loads", "Multiples of BASE's own load.", "such as 1,2.5,5")] = "1",
    rate: options.Rate = None,
    lambdas: Annotated[str, _many("--lambda", "Weights of carbon, 0 to 1.", "such as 0.1,0.5")] = "0.5",
    parking: Annotated[str, _many("--parking", "none, parked or off.", "several are compared")] = "none",
    gpus: planning.Gpus = 2,
    nodes: planning.Nodes = None,
    board: options.Board = "a100-40gb",
    pue: options.Pue = 1.5,
    park_w: options.ParkW = None,
    sla: options.Sla = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of random schemes (clover, blover); below 20 is for trying out.")
    ] = 20,
    seed: options.Seed = 0,
    simulated: Annotated[
        int, typer.Option("--simulated", min=2000, help="Requests simulated per plan for the true late_pct.")
    ] = 60_000,
    processes: Annotated[int, typer.Option("--processes", min=1, max=256, help="Processes side by side.")] = 2,
    year: Annotated[
        bool, typer.Option("--year", help="Also replay the year-long series pjm-2022 and gb-2021 of --long-traces.")
    ] = False,
    long_traces: Annotated[
        Path | None,
        typer.Option(
            "--long-traces",
            help="Folder of year-long series, for --year.",
            envvar="CLOVER_LONG_TRACES",
        ),
    ] = None,
    runs_dir: RunsDir = None,
    run_name: RunName = None,
    as_json: options.Json = False,
) -> None:
    """Replay schemes over traces hour by hour on the model; every row's lateness is simulated, nothing is served.

    Rows above 5 % late are marked and not ranked. Figures of random schemes are medians over the seeds. Everything but
    `seconds` is the same for the same seed.

    Examples: clover experiment --lambda 0.1,0.5; clover experiment --schemes all --apps yolov5 --loads 1,5 --json
    """
    tasks = _tasks(
        names=_schemes(schemes),
        applications=applications,
        traces=_traces(traces, _folder(long_traces, year=year)),
        loads=[options.check_positive("--loads", x) for x in _numbers("--loads", loads)]
        if rate is None
        else [math.nan],
        rate=rate,
        lambdas=_numbers("--lambda", lambdas),
        parking=_words("--parking", parking, _PARKING),
        board=board,
        gpus=gpus,
        nodes=nodes,
        pue=pue,
        park_w=park_w,
        sla=sla,
        seeds=seeds,
        seed=seed,
        simulated=simulated,
    )
    plan = recording.RunPlan(
        command="experiment",
        runs=runs_dir,
        name=run_name,
        deployment=None,
        seed=seed,
        hardware=recording.hardware("model", board, [gpus]),
        inputs=[*recording.carbon_files(*_trace_names(traces)), *_long_files(_folder(long_traces, year=year))],
    )
    with recording.recorded(context, plan) as run:
        results = _run(tasks, min(processes, os.cpu_count() or 1))
        spreads = [result.as_spread() for result in results if result.ranges]
        told = {"rows": [result.as_row() for result in results], "spreads": spreads}
        if as_json:
            print_json(told)
        else:
            print_results(results)
        run.summary(told)


def _run(tasks: list[Task], processes: int) -> list[Result]:
    from rich.console import Console  # noqa: PLC0415 - keeps --help fast
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from clover.analysis.experiment import run_all  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with planning.clean_stdout(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("rows", total=sum(task.rows for task in tasks))
        return run_all(tasks, processes=processes, tell=lambda rows: progress.advance(bar, rows))


def _tasks(
    *,
    names: tuple[str, ...],
    applications: str,
    traces: tuple[IntensityTrace, ...],
    loads: list[float],
    rate: float | None,
    lambdas: list[float],
    parking: list[str],
    board: str,
    gpus: int,
    nodes: int | None,
    pue: float,
    park_w: float | None,
    sla: str | None,
    seeds: int,
    seed: int,
    simulated: int,
) -> list[Task]:
    from clover.analysis.cases import Case, own_rate_rps  # noqa: PLC0415 - keeps --help fast
    from clover.analysis.experiment import Task  # noqa: PLC0415
    from clover.catalog import application_names  # noqa: PLC0415
    from clover.performance_tables import gpu_models_with_table  # noqa: PLC0415

    known = [name for name in application_names() if board in gpu_models_with_table(name)]
    tasks: list[Task] = []
    for application in _words("--apps", applications, known, unknown=application_names()):
        fleet = fleet_of(application, "sim", board, None, park_w)
        model, sla_ms = fleet.model, sla_of(sla, fleet)
        for load in loads:
            for lambda_ in lambdas:
                check_goals(lambda_, pue)
                for how in parking:
                    spread_gpus(gpus, nodes or 1)
                    case = Case(
                        gpus=gpus,
                        nodes=nodes or min(2, gpus),
                        rate_rps=own_rate_rps(model, gpus, load)
                        if rate is None
                        else options.check_positive("--rate", rate),
                        lambda_=lambda_,
                        parking=cast("Parking", how),
                        sla_ms=sla_ms,
                        pue=pue,
                        board=board,
                    )
                    tasks.append(
                        Task(
                            application=application,
                            park_w=park_w,
                            case=case,
                            traces=traces,
                            schemes=names,
                            seeds=seeds,
                            seed=seed,
                            simulated=simulated,
                        )
                    )
    return tasks


def _schemes(text: str) -> tuple[str, ...]:
    from clover.plan.schemes import EXPERIMENT_SCHEMES  # noqa: PLC0415 - keeps --help fast

    return tuple(_words("--schemes", text, EXPERIMENT_SCHEMES))


def _folder(long_traces: Path | None, *, year: bool) -> Path | None:
    """Return the folder of the long series if they are wanted: a folder that is merely known adds nothing."""
    if year and long_traces is None:
        raise ConfigurationError("--year: expected --long-traces FOLDER or CLOVER_LONG_TRACES")
    return long_traces if year else None


def _trace_names(text: str) -> list[str]:
    from clover.analysis.cases import SHORT_TRACES  # noqa: PLC0415 - keeps --help fast

    return list(SHORT_TRACES) if text == "all" else _split("--traces", text)


def _long_files(folder: Path | None) -> list[tuple[str, Path]]:
    return [(f"carbon trace {path.stem}", path) for path in sorted(folder.glob("*.csv"))] if folder else []


def _traces(text: str, folder: Path | None) -> tuple[IntensityTrace, ...]:
    from clover.catalog import load_trace  # noqa: PLC0415 - keeps --help fast

    found = [load_trace(name) for name in _trace_names(text)]
    if folder is not None:
        from clover.analysis.long_traces import load_long_traces  # noqa: PLC0415

        long = load_long_traces(folder)
        for series in long:
            tell(
                f"{series.trace.name}: {len(series.trace.values_g_per_kwh)} hours, {series.filled_hours} of them filled"
            )
        found += [series.trace for series in long]
    return tuple(found)


def _split(name: str, text: str) -> list[str]:
    parts = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(parts):
        raise ConfigurationError(f"{name} = {text!r}: expected values separated by commas")
    return parts


def _words(name: str, text: str, known: Any, *, unknown: Any = ()) -> list[str]:
    """Return the words of a list; `all` means all that are known, `unknown` says which others exist."""
    if text == "all":
        return list(known)
    parts = _split(name, text)
    for part in parts:
        if part not in known and part not in unknown:
            raise ConfigurationError(f"{name}: {part!r} is unknown, expected one of {', '.join(known)}")
    return parts


def _numbers(name: str, text: str) -> list[float]:
    numbers: list[float] = []
    for part in _split(name, text):
        try:
            numbers.append(float(part))
        except ValueError:
            raise ConfigurationError(f"{name}: {part!r} is not a number") from None
    return numbers
