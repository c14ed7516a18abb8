"""The fleet that options describe: application, backend, board and table, how many GPUs and nodes, under which load."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import check_positive
from cli.output import tell
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet


def fleet_of(app: str, backend: str, board: str, profile: Path | None, park_w: float | None = None) -> Fleet:
    """Load what an application needs on a backend; every mismatch is a clear error."""
    from clover.agents.fleet import make_fleet, table_model  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import load_application, load_service  # noqa: PLC0415
    from clover.performance_tables import gpu_models_with_table  # noqa: PLC0415
    from mig.profiles import gpu_model  # noqa: PLC0415

    gpu_model(board)
    application = load_application(app)
    if backend == "cpu" and profile is None and application.servicer != "table":
        _require_cpu_table(app, application.name)
    table = table_model(backend, board)
    if backend == "nvml" and profile is None and table not in gpu_models_with_table(application.name):
        # Better a plan from the wrong figures, and to say so, than none: whoever measures gives a table of his own.
        tell(f"no table of {app} on {board}: predictions use the CPU's (--profile FILE names a measured one)")
        table = "cpu"
    model = load_service(app, table, path=profile)
    if park_w is not None:
        if not (math.isfinite(park_w) and park_w >= 0.0):
            raise ConfigurationError(f"--park-w = {park_w}: expected a number of 0 or more")
        model = dataclasses.replace(model, table=dataclasses.replace(model.table, parked_power_w=park_w))
    return make_fleet(backend=backend, board=board, model=model)


def _require_cpu_table(app: str, name: str) -> None:
    """Refuse an application that nobody has measured on a CPU yet, and say how to."""
    from clover.performance_tables import gpu_models_with_table  # noqa: PLC0415 - keeps --help fast

    if "cpu" not in gpu_models_with_table(name):
        raise ConfigurationError(
            f"application {name} has not been measured on a CPU yet: there is no performance table to plan with",
            hint=f"measure it: clover profile sweep --backend cpu --app {app} --out {name}.json; "
            f"then give --profile {name}.json",
        )


def default_gpus(backend: str) -> int:
    """Return how many GPUs a node has unless told: one, or on the CPU a core each but for one."""
    return max(1, (os.cpu_count() or 2) - 1) if backend == "cpu" else 1


def rate_of(rate: float | None, gpus: int, fleet: Fleet) -> float:
    """Return the arrival rate in requests/s: as given, or BASE's own load."""
    if rate is None:
        return gpus * fleet.model.application.default_rate_rps_per_gpu
    return check_positive("--rate", rate)


def spread_gpus(gpus: int, nodes: int) -> tuple[int, ...]:
    """Spread GPUs over nodes as evenly as possible."""
    if nodes > gpus:
        raise ConfigurationError(f"--nodes = {nodes}: expected at most --gpus = {gpus}")
    return tuple(gpus // nodes + (1 if index < gpus % nodes else 0) for index in range(nodes))
