"""Questions to schemes, as experiments and `clover plan` ask them: a fleet, a load, a table and what is wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clover.core.application import ServiceModel
from clover.core.configuration import GpuId
from clover.plan.problem import Parking, Problem
from clover.plan.space import known_multisets
from mig.partition import maximal_multisets
from mig.profiles import gpu_model

#: The applications of the paper.
APPLICATIONS = ("albert", "efficientnet", "yolov5")
#: The 48-hour traces that ship with Clover.
SHORT_TRACES = ("ciso-march", "ciso-september", "eso-march")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fleet under one constant load.

    Attributes:
        gpus: Number of GPUs.
        nodes: Over which they are spread.
        rate_rps: Arrival rate of the whole fleet.
        lambda_: Weight of carbon.
        parking: What GPUs that are not needed may become.
        sla_ms: Promised p95; the table's if None.
        intensity_g_per_kwh, pue: Of grid and building.
        reserve: Serving GPUs beyond those that the load needs.
        accuracy_floor_pct, carbon_budget_g: Asked for instead of lambda.
        board: GPU model whose MIG rules hold.
    """

    gpus: int
    rate_rps: float
    nodes: int = 1
    lambda_: float = 0.5
    parking: Parking = "none"
    sla_ms: float | None = None
    intensity_g_per_kwh: float = 250.0
    pue: float = 1.5
    reserve: int = 0
    accuracy_floor_pct: float | None = None
    carbon_budget_g: float | None = None
    board: str = "a100-40gb"


def problem_of(model: ServiceModel, case: Case) -> Problem:
    """Return the question; raises ValueError naming field, value and what was expected."""
    if case.gpus < 1:
        raise ValueError(f"gpus = {case.gpus}: expected at least 1")
    if not 1 <= case.nodes <= case.gpus:
        raise ValueError(f"nodes = {case.nodes}: expected 1 to {case.gpus}, the number of GPUs")
    return Problem(
        model=model,
        multisets=known_multisets(model, maximal_multisets(gpu_model(case.board))),
        gpus=gpu_ids(case.gpus, case.nodes),
        rate_rps=case.rate_rps,
        sla_ms=case.sla_ms or model.table.sla_p95_ms,
        lambda_=case.lambda_,
        intensity_g_per_kwh=case.intensity_g_per_kwh,
        pue=case.pue,
        parking=case.parking,
        reserve=case.reserve,
        accuracy_floor_pct=case.accuracy_floor_pct,
        carbon_budget_g=case.carbon_budget_g,
    )


def gpu_ids(gpus: int, nodes: int) -> tuple[GpuId, ...]:
    """Name the GPUs of a fleet that is spread over nodes as evenly as possible."""
    sizes = [gpus // nodes + (1 if node < gpus % nodes else 0) for node in range(nodes)]
    return tuple(GpuId(f"n{node + 1}", index) for node, size in enumerate(sizes) for index in range(size))


def own_rate_rps(model: ServiceModel, gpus: int, load: float = 1.0) -> float:
    """Return a load in multiples of BASE's own, in requests/s of the whole fleet."""
    return gpus * load * model.application.default_rate_rps_per_gpu


def with_table(model: ServiceModel, **changes: float) -> ServiceModel:
    """Return a model whose table differs in some figures, such as `parked_power_w`; its checks hold for the new ones.

    Raises:
        ValueError: A figure is out of range.
    """
    return replace(model, table=replace(model.table, **changes))
