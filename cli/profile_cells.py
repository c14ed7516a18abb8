"""What `clover profile` is asked to measure: the fleet, the configurations (cells), and how much of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cli.batching_options import check_batches
from cli.fleets import fleet_of
from cli.profile_measuring import Amount

if TYPE_CHECKING:
    from clover.agents.fleet import Fleet
    from clover.core.configuration import GpuConfiguration


def amount_of(
    fleet: Fleet, requests: int, warm_up: int, limit_s: float, think_s: float | None, batch_size: int
) -> Amount:
    """Return how much is to be measured, if the backend and the family can do it."""
    check_batches(fleet, batch_size, option="--batch-size")
    # A simulated instance does not care about the time between requests, and nobody wants to wait for it.
    pause_s = (0.1 if fleet.backend != "sim" else 0.0) if think_s is None else think_s
    return Amount(requests=requests, warm_up=warm_up, limit_s=limit_s, think_s=pause_s, batch_size=batch_size)


def fleet_to_measure(app_name: str, backend: str, board: str, profile: Path | None) -> Fleet:
    """Return the fleet to measure: simulation needs a table, a real backend none."""
    from clover.agents.fleet import make_fleet, table_model  # noqa: PLC0415 - keeps --help fast
    from clover.catalog import unmeasured_service  # noqa: PLC0415
    from clover.errors import ConfigurationError  # noqa: PLC0415

    if backend == "nvml":
        raise ConfigurationError(
            "--backend nvml: measuring on real GPUs is not built yet", hint="expected cpu (real models) or sim (tables)"
        )
    if table_model(backend, board) != "cpu":
        return fleet_of(app_name, backend, board, profile)
    return make_fleet(backend=backend, board=board, model=unmeasured_service(app_name, "cpu"))


def cells_of(
    fleet: Fleet, variants: str, profiles: str, partitions: str, *, all_assignments: bool
) -> list[GpuConfiguration]:
    """Return the configurations of a sweep: every variant alone on every profile, or partitions as wholes."""
    from clover.core.configuration import GpuConfiguration, InstanceKind  # noqa: PLC0415 - keeps --help fast
    from clover.core.profiling import assignment_cells, single_cells  # noqa: PLC0415
    from clover.errors import ConfigurationError  # noqa: PLC0415

    names = [variant_of(fleet, v) for v in variants.split(",")] if variants else list(fleet.model.table.variants)
    if not partitions:
        if all_assignments:
            raise ConfigurationError("--all-assignments needs --partitions: expected codes such as 0,1,3,4,7,10,17")
        sizes = profiles.split(",") if profiles else [p.size for p in fleet.board.basic_profiles]
        return single_cells(names, [fleet.board.profile(size).size for size in sizes])
    cuts = [partition_of(fleet, code) for code in partitions.split(",")]
    if all_assignments:
        return assignment_cells(cuts, names)
    return [GpuConfiguration(tuple(InstanceKind(size, v) for size in cut)) for cut in cuts for v in names]


def partition_of(fleet: Fleet, text: str) -> tuple[str, ...]:
    """Return profile sizes from a code (`4`) or a list (`4g+3g`)."""
    from mig.codes import multiset_of_code  # noqa: PLC0415 - keeps --help fast

    if text.strip().isdigit():
        return multiset_of_code(fleet.board, int(text))
    return tuple(fleet.board.profile(size.strip()).size for size in text.split("+"))


def variant_of(fleet: Fleet, name: str) -> str:
    """Return the name of a variant of the application."""
    from clover.errors import ConfigurationError  # noqa: PLC0415 - keeps --help fast

    try:
        return fleet.model.application.variant(name.strip()).name
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
