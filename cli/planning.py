"""What the planning commands share: a checked question from options, and a standard output that stays clean."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import typer

from cli.fleets import fleet_of, rate_of, spread_gpus
from cli.goals import check_goals, goals_of, sla_of
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.plan.problem import Parking, Problem

_PIPE_WIDTH = 200
Gpus: TypeAlias = Annotated[
    int, typer.Option("--gpus", min=1, max=10_000, help="GPUs of the fleet.", envvar="CLOVER_GPUS")
]
Nodes: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--nodes", min=1, help="Nodes to spread them over (default 2, or 1 for one GPU).", envvar="CLOVER_NODES"
    ),
]
Intensity: TypeAlias = Annotated[
    float, typer.Option("--intensity", help="Carbon intensity of the grid, gCO2e per kWh.", envvar="CLOVER_INTENSITY")
]


def problem(
    *,
    application: str,
    board: str,
    profile: Path | None,
    park_w: float | None,
    gpus: int,
    nodes: int | None,
    rate: float | None,
    sla: str | None,
    lambda_: float,
    intensity: float,
    pue: float,
    parking: str,
    reserve: int = 0,
    accuracy_floor: float | None = None,
    carbon_budget: float | None = None,
) -> Problem:
    """Check every option and return the question; what cannot be is a ConfigurationError."""
    from clover.analysis.cases import Case, problem_of  # noqa: PLC0415 - keeps --help fast
    from clover.core.carbon import MAX_INTENSITY_G_PER_KWH  # noqa: PLC0415

    fleet = fleet_of(application, _backend_of(profile), board, profile, park_w)
    check_goals(lambda_, pue)
    goals_of(
        fleet,
        lambda_=lambda_,
        sla=sla,
        parking=parking,
        reserve=reserve,
        accuracy_floor=accuracy_floor,
        carbon_budget=carbon_budget,
        gpus=gpus,
    )
    if not 0.0 <= intensity <= MAX_INTENSITY_G_PER_KWH:
        raise ConfigurationError(
            f"--intensity = {intensity}: expected a number from 0 to {MAX_INTENSITY_G_PER_KWH:g} gCO2e per kWh"
        )
    spread_gpus(gpus, nodes or 1)
    case = Case(
        gpus=gpus,
        nodes=nodes or min(2, gpus),
        rate_rps=rate_of(rate, gpus, fleet),
        lambda_=lambda_,
        parking=cast("Parking", parking),
        sla_ms=sla_of(sla, fleet),
        intensity_g_per_kwh=intensity,
        pue=pue,
        reserve=reserve,
        accuracy_floor_pct=accuracy_floor,
        carbon_budget_g=carbon_budget,
        board=board,
    )
    try:
        return problem_of(fleet.model, case)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _backend_of(profile: Path | None) -> str:
    """Return the backend that a table is for: one that was measured on a CPU plans for emulated GPUs."""
    from clover.performance_tables import read_table  # noqa: PLC0415 - keeps --help fast

    return "cpu" if profile is not None and read_table(profile)["gpu_model"] == "cpu" else "sim"


@contextlib.contextmanager
def clean_stdout() -> Iterator[None]:
    """Keep what libraries print out of standard output, where results go: it lands on standard error.

    The solver greets on file descriptor 1 when it is first made, whatever its options say.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def finite(value: float | None) -> float | None:
    """Return a figure for JSON: what is not finite is null."""
    return value if value is not None and abs(value) < float("inf") else None


def table(title: str, columns: list[tuple[str, bool]], rows: list[tuple[str, ...]], *, caption: str = "") -> None:
    """Print a table on standard output; columns are (header, whether it is text)."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - a script that asks for JSON does not wait for it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made: Any = Table(
        title=Text(title),
        caption=Text(caption) if caption else None,
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(header for header, _ in columns),
    )
    for header, is_text in columns:
        made.add_column(header, justify="left" if is_text else "right", no_wrap=not is_text)
    for row in rows:
        # As they are: `[parked]` is no markup.
        made.add_row(*(Text(cell) for cell in row))
    console = Console()
    # A file or a pipe has no width that would have to be kept.
    (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(made)
