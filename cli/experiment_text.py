"""What `clover experiment` prints for people: its rows, ranked, a table per case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.output import tell
from cli.planning import table

if TYPE_CHECKING:
    from clover.analysis.experiment_rows import Result


def print_results(results: list[Result]) -> None:
    """Print a table per case, best scheme first."""
    from itertools import groupby  # noqa: PLC0415

    from clover.analysis.experiment_rows import ranked  # noqa: PLC0415 - keeps --help fast

    columns = [
        (header, header == "scheme")
        for header in (
            "#",
            "scheme",
            "saved %",
            "right-sized %",
            "orig. way %",
            "loss %",
            "p95 ms",
            "late %",
            "objective",
            "MIG",
            "explored bad",
        )
    ]

    def case(item: tuple[int | None, Result]) -> tuple[Any, ...]:
        row = item[1].row
        return row.app, row.trace, row.rate_rps, row.gpus, row.lambda_, row.parking

    for key, group in groupby(ranked(results), key=case):
        app, trace, rate, gpus, lambda_, parking = key
        table(
            f"{app}, {trace}, {rate:g} requests/s on {gpus} GPUs, lambda {lambda_:g}, parking {parking}",
            columns,
            [_cells(place, result) for place, result in group],
            caption="modelled; saved against BASE / right-sized BASE at the same load; - = above 5 % late, not ranked",
        )
    if any(not result.row.baseline_feasible for result in results):
        tell("BASE itself misses the SLA in some cases: what is saved against it there is no fair comparison")


def _cells(place: int | None, result: Result) -> tuple[str, ...]:
    row = result.row
    spread = result.ranges.get("objective")
    span = f" ({spread[0]:.4f}..{spread[2]:.4f})" if spread else ""
    return (
        "-" if place is None else str(place),
        row.scheme + ("" if row.feasible else " (infeasible)"),
        f"{row.saved_pct:.1f}" + ("" if row.baseline_feasible else "!"),
        f"{row.saved_pct_rightsized:.1f}",
        f"{row.saved_pct_original_way:.1f}",
        f"{row.accuracy_loss_pct:.2f}",
        "-" if row.p95_ms is None else f"{row.p95_ms:.0f}",
        f"{row.late_pct:.2f}",
        f"{row.objective:.4f}{span}",
        f"{row.mig_changes:g}",
        f"{row.explored_violations:g}",
    )
