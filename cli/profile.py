"""`clover profile`: measures an application in a closed loop and makes performance tables of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, real_models
from cli.output import print_json, tell
from cli.profile_cells import amount_of, cells_of, fleet_to_measure, partition_of, variant_of
from cli.profile_files import energy_source, host, provenance, read, weights_text, write
from cli.profile_measuring import bench_of, path_ms, sweep_cells
from cli.profile_power import power
from cli.profile_tables import print_difference, print_figures, print_table

if TYPE_CHECKING:
    from clover.core.profiling import CellMeasurement

app = typer.Typer(no_args_is_help=True)
app.command("power", help=power.__doc__)(power)

Gpus = Annotated[int, typer.Option("--gpus", min=1, max=64, help="GPUs that all get the same configuration.")]
Requests = Annotated[int, typer.Option("--requests", min=1, help="Answers per instance that count.")]
WarmUp = Annotated[int, typer.Option("--warm-up", min=0, help="Answers per instance before those.")]
Limit = Annotated[
    float,
    typer.Option(
        "--cell-limit", parser=options.parse_duration, metavar="DURATION", help="Longest time per configuration."
    ),
]
Variants = Annotated[str, typer.Option("--variants", help="Comma-separated variants (default: all).")]
ThinkTime = Annotated[
    float | None,
    typer.Option(
        "--think-time",
        parser=options.parse_duration,
        metavar="DURATION",
        help="Mean pause of a client between two answers (default: 100ms; sim: 0s, back to back).",
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", help="Requests answered with one inference; what is served must be the same.")
]


@app.command()
def run(
    *,
    partition: Annotated[str, typer.Option("--partition", help="Profiles such as 4g+3g, or a code 0 to 18.")] = "7g",
    variants: Annotated[
        str,
        typer.Option("--variants", help="A variant per instance, comma-separated, or one for all (default: largest)."),
    ] = "",
    requests: Requests = 100,
    warm_up: WarmUp = 5,
    cell_limit: Limit = "10m",  # pyright: ignore[reportArgumentType] - parsed like a flag
    think_time: ThinkTime = None,
    batch_size: BatchSize = 1,
    gpus: Gpus = 1,
    application: options.App = "efficientnet_lite",
    backend: options.Backend = "cpu",
    board: options.Board = "a100-40gb",
    weights: options.Weights = "",
    inputs: options.Inputs = None,
    profile: options.Profile = None,
    as_json: options.Json = False,
) -> None:
    """Measure one configuration: one client per instance, which pauses between its requests.

    Example: clover profile run --app efficientnet_lite --partition 4g+3g --variants lite2,lite0
    """
    from clover.core.configuration import GpuConfiguration, InstanceKind  # noqa: PLC0415 - keeps --help fast
    from clover.core.profiling import figures  # noqa: PLC0415
    from clover.errors import ConfigurationError  # noqa: PLC0415
    from clover.serving.port import ServingError  # noqa: PLC0415

    fleet = fleet_to_measure(application, backend, board, profile)
    sizes = partition_of(fleet, partition)
    names = variants.split(",") if variants else [fleet.model.application.largest.name]
    names = names * len(sizes) if len(names) == 1 else names
    if len(names) != len(sizes):
        raise ConfigurationError(f"--variants = {variants!r}: expected one, or one for each of {'+'.join(sizes)}")
    cell = GpuConfiguration(tuple(InstanceKind(s, variant_of(fleet, v)) for s, v in zip(sizes, names, strict=True)))

    amount = amount_of(fleet, requests, warm_up, cell_limit, think_time, batch_size)

    async def measure() -> CellMeasurement:
        async with bench_of(fleet, application, gpus, weights, inputs, amount) as bench:
            return await bench.measure(cell)

    real_models.tell_weights(weights)
    measured = asyncio.run(measure())
    if measured.outcome != "ok":
        raise ServingError(f"{measured.cell}: {measured.outcome}: {measured.reason}")
    rows = [figures(measured.cell, instance) for instance in measured.instances]
    if as_json:
        print_json(
            {
                "application": fleet.model.application.name,
                "cell": measured.cell,
                "batch_size": batch_size,
                "think_time_s": amount.think_s,
                "seconds": measured.seconds,
                "weights": weights_text(weights),
                "energy_source": energy_source(backend),
                "instances": rows,
                "latencies_ms": [instance.service_ms for instance in measured.instances],
            }
        )
    else:
        print_figures(rows, title=f"{fleet.model.application.title}: {measured.cell}, {weights_text(weights)}")


@app.command("sweep")
def sweep_command(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Table to write (default: profile-APP-BACKEND.json).")
    ] = None,
    variants: Variants = "",
    profiles: Annotated[str, typer.Option("--profiles", help="Comma-separated profile sizes (default: all).")] = "",
    partitions: Annotated[
        str, typer.Option("--partitions", help="Codes such as 0,1,3,4,7,10,17, each measured as a whole.")
    ] = "",
    all_assignments: Annotated[
        bool, typer.Option("--all-assignments", help="With --partitions: every distinct assignment of variants.")
    ] = False,
    requests: Requests = 40,
    warm_up: WarmUp = 3,
    cell_limit: Limit = "60s",  # pyright: ignore[reportArgumentType] - parsed like a flag
    think_time: ThinkTime = None,
    batch_size: BatchSize = 1,
    gpus: Gpus = 1,
    application: options.App = "efficientnet_lite",
    backend: options.Backend = "cpu",
    board: options.Board = "a100-40gb",
    weights: options.Weights = "",
    inputs: options.Inputs = None,
    profile: options.Profile = None,
    as_json: options.Json = False,
) -> None:
    """Measure every variant on every profile and write a performance table; goes on where it was broken off.

    Example: clover profile sweep --backend cpu --app efficientnet_lite --gpus 1 --out mine.json
    """
    from clover.agents.sweep import SweepFile, SweepHead  # noqa: PLC0415 - keeps --help fast
    from clover.core.table_fit import fit_table  # noqa: PLC0415
    from clover.errors import ConfigurationError  # noqa: PLC0415

    fleet = fleet_to_measure(application, backend, board, profile)
    name = fleet.model.application.name
    table_path = out or Path(f"profile-{name}-{backend}.json")
    cells = cells_of(fleet, variants, profiles, partitions, all_assignments=all_assignments)
    amount = amount_of(fleet, requests, warm_up, cell_limit, think_time, batch_size)
    head = SweepHead(
        application=name,
        backend=backend,
        board=board,
        gpus=gpus,
        weights=weights_text(weights),
        requests=requests,
        warm_up=warm_up,
        host=host(),
        think_s=amount.think_s,
        batch_size=batch_size,
    )
    file = SweepFile(table_path.with_suffix(".cells.jsonl"), head)
    real_models.tell_weights(weights)

    async def measure_all() -> tuple[float, ...]:
        async with bench_of(fleet, application, gpus, weights, inputs, amount) as bench:
            await sweep_cells(file, cells, bench)
        return await path_ms(fleet, inputs, amount)

    path = asyncio.run(measure_all())
    whole = fleet.board.basic_profiles[0].size
    story = provenance(fleet, backend, weights, think_s=amount.think_s, batch_size=batch_size, path_ms=path)
    try:
        table = fit_table(fleet.model.application, file.newest(), story, whole)
    except ValueError as error:
        raise ConfigurationError(
            f"there is no table yet: {error}", hint="measurements are kept; run it again without restricting it"
        ) from error
    write(table_path, table)
    if as_json:
        print_json({"table": str(table_path), **table})
    else:
        print_table(table)
        tell(f"written to {table_path}")
        batches = f" --max-batch-size {batch_size}" if batch_size > 1 else ""
        tell(f"use it with: clover up --app {application} --backend {backend} --profile {table_path}{batches}")


@app.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="A table; without it the one that ships.")] = None,
    *,
    application: options.App = "albert",
    backend: options.Backend = "sim",
    board: options.Board = "a100-40gb",
    as_json: options.Json = False,
) -> None:
    """Show a performance table.

    Example: clover profile show mine.json
    """
    table = read(file, application, backend, board)
    if as_json:
        print_json(table)
    else:
        print_table(table)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A table.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Compare two performance tables, figure by figure.

    Example: clover profile diff before.json after.json
    """
    from clover.analysis.profiles import differences  # noqa: PLC0415 - keeps --help fast

    tables = [read(path, "", "", "") for path in (first, second)]
    rows = differences(*tables)
    if as_json:
        print_json({"first": str(first), "second": str(second), "rows": rows})
    else:
        print_difference(rows, str(first), str(second))
