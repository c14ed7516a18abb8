"""What options ask of the planner: weight of carbon, promised latency, parking, accuracy and carbon bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from cli.options import check_positive
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.agents.goals import Goals
    from clover.plan.problem import Parking


def goals_of(
    fleet: Fleet,
    *,
    lambda_: float,
    sla: str | None,
    parking: str,
    reserve: int,
    accuracy_floor: float | None,
    carbon_budget: float | None,
    gpus: int,
) -> Goals:
    """Check what is asked of the planner; every value that cannot be is a clear error."""
    from clover.agents.goals import Goals  # noqa: PLC0415 - keeps --help fast

    check_goals(lambda_, 1.0)
    if parking not in {"none", "parked", "off"}:
        raise ConfigurationError(f"--parking = {parking}: expected none, parked or off")
    if not 0 <= reserve < gpus:
        raise ConfigurationError(f"--reserve = {reserve}: expected 0 to {gpus - 1} of {gpus} GPUs")
    if accuracy_floor is not None and carbon_budget is not None:
        raise ConfigurationError("--accuracy-floor and --carbon-budget: expected at most one of them")
    best = fleet.model.application.largest
    if accuracy_floor is not None and not accuracy_floor <= best.accuracy_pct:
        raise ConfigurationError(
            f"--accuracy-floor = {accuracy_floor:g}: expected at most {best.accuracy_pct:g}, "
            f"the accuracy of {best.name}, the best variant of {fleet.model.application.name}"
        )
    if carbon_budget is not None:
        check_positive("--carbon-budget", carbon_budget)
    return Goals(
        lambda_=lambda_,
        sla_ms=sla_of(sla, fleet),
        parking=cast("Parking", parking),
        reserve=reserve,
        accuracy_floor_pct=accuracy_floor,
        carbon_budget_g=carbon_budget,
    )


def sla_of(sla: str | None, fleet: Fleet) -> float:
    """Return the promised p95 in ms: the table's, a multiple of it (`1.5x`), or as given."""
    table_ms = fleet.model.table.sla_p95_ms
    if sla is None:
        return table_ms
    try:
        number = float(sla.removesuffix("x"))
    except ValueError:
        raise ConfigurationError(
            f"--sla = {sla!r}: expected milliseconds such as 200, or a multiple such as 1.5x"
        ) from None
    return check_positive("--sla", number) * (table_ms if sla.endswith("x") else 1.0)


def check_goals(lambda_: float, pue: float) -> None:
    """Raise ConfigurationError if a goal is out of range."""
    if not 0.0 <= lambda_ <= 1.0:
        raise ConfigurationError(f"--lambda = {lambda_}: expected a number from 0 to 1")
    if not (math.isfinite(pue) and pue >= 1.0):
        raise ConfigurationError(f"--pue = {pue}: expected a number of at least 1")
