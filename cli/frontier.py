"""`clover frontier`: what a load allows, energy against accuracy, as a table, in the terminal, or as a picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, planning
from cli.output import print_json, tell

if TYPE_CHECKING:
    from clover.analysis.frontier import FrontierPoint

_WIDTH, _HEIGHT = 68, 20
_THRESHOLD_FAILED = 10


def frontier(
    *,
    application: options.App = "albert",
    gpus: planning.Gpus = 2,
    nodes: planning.Nodes = None,
    board: options.Board = "a100-40gb",
    rate: options.Rate = None,
    intensity: planning.Intensity = 250.0,
    pue: options.Pue = 1.5,
    lambda_: options.Lambda = 0.5,
    parking: options.Parking = "none",
    park_w: options.ParkW = None,
    sla: options.Sla = None,
    profile: options.Profile = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Write a picture (the ending says which kind: .png, .svg, .pdf).")
    ] = None,
    grams: Annotated[
        bool, typer.Option("--grams", help="Plot gCO2e per 1000 requests instead of J per request.")
    ] = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Show the certified plans that nothing beats in both energy and accuracy, among all that could be.

    Filled points keep the SLA, hollow ones are too late; plans marked * are best for some weight of carbon.

    Examples: clover frontier --app yolov5 --rate 5; clover frontier --gpus 10 --parking parked --png frontier.png
    """
    asked = planning.problem(
        application=application,
        board=board,
        profile=profile,
        park_w=park_w,
        gpus=gpus,
        nodes=nodes,
        rate=rate,
        sla=sla,
        lambda_=lambda_,
        intensity=intensity,
        pue=pue,
        parking=parking,
    )
    from clover.analysis import frontier as analysis  # noqa: PLC0415 - keeps --help fast

    if png is not None:
        analysis.pyplot()
    with planning.clean_stdout():
        best, others = analysis.frontier(asked, seed=seed)
    title = f"{application}, {gpus} GPUs, {asked.rate_rps:g} requests/s, parking {parking}"
    if png is not None:
        analysis.draw(best, others, png, title=f"{title} (modelled)", grams=grams)
    if as_json:
        print_json(
            {
                "points": [dataclasses.asdict(point) for point in best],
                "others": [dataclasses.asdict(point) for point in others],
            }
        )
    else:
        _print(title, best, others, grams=grams)
        if png is not None:
            tell(f"picture written: {png}")
    if not best:
        tell(f"no plan keeps p95 within {asked.sla_ms:g} ms at {asked.rate_rps:g} requests/s; see clover plan")
        raise typer.Exit(_THRESHOLD_FAILED)


def _print(title: str, best: list[FrontierPoint], others: list[FrontierPoint], *, grams: bool) -> None:
    planning.table(
        title,
        [("accuracy %", False), ("J/request", False), ("g/1000", False), ("late <= %", False), ("p95 ms", False),
         ("GPUs", False), ("", False), ("plan", True)],
        [
            (
                f"{p.accuracy_pct:.2f}",
                f"{p.energy_j_per_request:.2f}",
                f"{p.footprint_g_per_1000:.2f}",
                f"{p.late_pct:.2f}",
                "-" if p.p95_ms is None else f"{p.p95_ms:.0f}",
                str(p.active_gpus),
                "*" if p.best_for_some_weight else "",
                p.plan,
            )
            for p in best
        ],
        caption="certified by simulation; energy modelled; * best for some weight of carbon",
    )  # fmt: skip
    _plot(best, others, grams=grams)


def _plot(best: list[FrontierPoint], others: list[FrontierPoint], *, grams: bool) -> None:
    """Draw into the terminal: accuracy to the right, energy (or grams) upwards."""
    from rich.console import Console  # noqa: PLC0415 - a script that asks for JSON does not wait for it
    from rich.text import Text  # noqa: PLC0415

    def value(point: FrontierPoint) -> float:
        return point.footprint_g_per_1000 if grams else point.energy_j_per_request

    points = [*others, *best]
    low, high = min(p.accuracy_pct for p in points), max(p.accuracy_pct for p in points)
    shown = sorted(value(p) for p in others)
    top = max([shown[int(0.98 * (len(shown) - 1))], *(value(p) for p in best)])
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    ordered = [*(p for p in others if not p.feasible), *(p for p in others if p.feasible), *best]
    for point in ordered:
        if value(point) > top:
            continue
        column = round((point.accuracy_pct - low) / max(high - low, 1e-9) * (_WIDTH - 1))
        row = round(value(point) / top * (_HEIGHT - 1))
        mark = ("◆", "green") if point.kind == "certified" else ("•", "cyan") if point.feasible else ("◦", "dim")
        cells[row, column] = mark
    console = Console()
    for row in reversed(range(_HEIGHT)):
        line = Text(f"{top * row / (_HEIGHT - 1):8.1f} │" if row % 5 == 0 or row == _HEIGHT - 1 else "         │")
        for column in range(_WIDTH):
            mark, style = cells.get((row, column), (" ", ""))
            line.append(mark, style)
        console.print(line, no_wrap=True, crop=False)
    console.print("         └" + "─" * _WIDTH, no_wrap=True, crop=False)
    console.print(f"          {low:.2f} %{'accuracy':^{_WIDTH - 16}}{high:.2f} %", no_wrap=True, crop=False)
    console.print(
        f"  {'gCO2e per 1000 requests' if grams else 'J per request'}; ◆ certified  • keeps the SLA  ◦ too late",
        no_wrap=True,
        crop=False,
    )
