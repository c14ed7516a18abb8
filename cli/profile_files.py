"""Performance tables on disk, and what a measured one says of where it comes from."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.core.table_fit import Provenance


def provenance(
    fleet: Fleet, backend: str, weights: str, *, think_s: float, batch_size: int, path_ms: tuple[float, ...]
) -> Provenance:
    """Return what a closed loop does not measure: from the shipped table if there is one, else assumed."""
    from clover.core.application import ChangeTimes  # noqa: PLC0415
    from clover.core.table_fit import Provenance  # noqa: PLC0415
    from clover.performance_tables import gpu_models_with_table, load_table  # noqa: PLC0415 - keeps --help fast

    table = fleet.model.table
    source = "of the simulated table"
    if backend == "cpu":
        known = "efficientnet_lite" if "cpu" in gpu_models_with_table("efficientnet_lite") else table.application
        table = load_table(known, "cpu")
        source = "assumed, as is idle_power_w: a core of a server in its idle state, with and without processes on it"
    change = table.change
    return Provenance(
        gpu_model=table.gpu_model,
        date=time.strftime("%Y-%m-%d"),
        host=host(),
        energy_source=energy_source(backend),
        weights=weights_text(weights),
        idle_power_w=table.idle_power_w,
        parked_power_w=table.parked_power_w,
        power_source=source,
        change=ChangeTimes(
            create_s=change.create_s,
            destroy_s=change.destroy_s,
            worker_start_s=0.0,
            provenance="a slice of a core needs nothing created" if backend == "cpu" else change.provenance,
        ),
        think_s=think_s,
        batch_size=batch_size,
        path_ms=path_ms,
    )


def read(file: Path | None, app_name: str, backend: str, board: str) -> dict[str, Any]:
    """Return a table as it is written, once it is known to be one."""
    from clover.agents.fleet import table_model  # noqa: PLC0415 - keeps --help fast
    from clover.performance_tables import read_table  # noqa: PLC0415

    return read_table(file) if file else read_table(None, app_name, table_model(backend, board))


def write(path: Path, table: dict[str, Any]) -> None:
    """Write a table."""
    import orjson  # noqa: PLC0415 - keeps --help fast

    from clover.errors import ConfigurationError  # noqa: PLC0415

    try:
        path.write_bytes(orjson.dumps(table, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise ConfigurationError(f"--out {path}: {error.strerror or error}") from error


def weights_text(weights: str) -> str:
    """Say which weights were measured, without naming folders of this machine."""
    if not weights:
        return "published weights"
    return "random weights" if weights == "random" else f"weights from {Path(weights).name}"


def energy_source(backend: str) -> str:
    """Return where the joules of a backend come from."""
    return "estimate:tdp" if backend == "cpu" else "simulated"


def host() -> str:
    """Return processor and system; no name of this machine."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
