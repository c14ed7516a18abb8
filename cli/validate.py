"""`clover validate`: the simulator beside what was measured on real GPUs. Needs no deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json
from cli.output import print_json, tell

if TYPE_CHECKING:
    from clover.analysis.validate import ValidatedPoint, Validation

#: Exit code of a criterion that is not met.
_THRESHOLD_FAILED = 10


def validate(
    *,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of the service times per point.")] = 200,
    as_json: Json = False,
) -> None:
    """Replay the 18 points measured on two A100-40GB and compare.

    Examples: clover validate; clover validate --json

    Simulated with the original's own arrivals; figures are medians over many draws of the service times, and the
    measured p95's place among these draws is told. The tables were fitted to the same points, so the errors are
    in-sample; beside them stand those of a fit that did not see the point's load. Exit code 10 if a criterion fails.
    """
    # What only this command needs is loaded when it runs.
    from clover.analysis.validate import validate as run  # noqa: PLC0415
    from clover.catalog import load_service  # noqa: PLC0415
    from clover.measurements import load_left_out, load_measurements  # noqa: PLC0415

    measurements = load_measurements("a100-40gb")
    models = {app: load_service(app, measurements.gpu_model) for app in measurements.prior}
    found = run(models, measurements.points, seeds=seeds, left_out=load_left_out(measurements))
    if as_json:
        print_json({"gpu_model": measurements.gpu_model, "source": measurements.source, **found.as_dict()})
    else:
        _print_tables(found)
        tell(measurements.source)
    if not found.passed:
        raise typer.Exit(_THRESHOLD_FAILED)


def _print_tables(found: Validation) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - a script that asks for JSON does not wait for it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(
        title=f"Two A100-40GB, simulated: p95 in ms, J per request (medians of {found.seeds})",
        caption="error: % against measured, in-sample; unseen: the same of a fit without this load; "
        "place: of the measured p95 among the seeds; * saturated",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("on each GPU", no_wrap=True)
    for header in ("gap", "p95", "error", "unseen", "place", "J", "error", "unseen"):
        table.add_column(header, justify="right", no_wrap=True)
    application = ""
    for each in found.points:
        if each.point.application != application:
            application = each.point.application
            table.add_section()
            table.add_row(f"[bold]{application}[/bold]")
        table.add_row(*_row(each))
    console = Console()
    console.print(table)
    for criterion in found.criteria:
        verdict = "met" if criterion.met else "NOT MET"
        console.print(
            f"{criterion.name.replace('_', ' ')} over {criterion.points} points: "
            f"{criterion.value:.3g} (at most {criterion.limit:g}): {verdict}"
        )


def _row(each: ValidatedPoint) -> tuple[str, ...]:
    point, simulated, error, other = each.point, each.simulated, each.error_pct, each.left_out
    return (
        " ".join(str(kind) for kind in point.instances),
        f"{point.interarrival_s:g}{'*' if point.saturated else ''}",
        f"{simulated.p95_ms:.0f}",
        f"{error.p95_ms:+.1f}",
        f"{other.p95_error_pct:+.1f}" if other else "-",
        f"{each.quantile:.2f}",
        f"{simulated.energy_j_per_request:.1f}",
        f"{error.energy_j_per_request:+.1f}",
        f"{other.energy_error_pct:+.1f}" if other else "-",
    )
