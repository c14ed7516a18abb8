"""Performance tables: their JSON files, those that ship with Clover and the user's, as they are read and checked.

Every error says which file, which field, what it holds and what was expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from clover.core.application import ChangeTimes, PerformanceTable, VariantPerformance
from clover.data_files import build, data_folder, decode, read_text
from clover.errors import ConfigurationError


class _ChangeFile(msgspec.Struct, forbid_unknown_fields=True):
    create_s: float
    destroy_s: float
    worker_start_s: float
    provenance: str


class _PerformanceFile(msgspec.Struct, forbid_unknown_fields=True):
    host_ms: float
    dynamic_energy_j: float
    service_ms: dict[str, float]
    out_of_memory_on: list[str] = []


class _TableFile(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    gpu_model: str
    application: str
    provenance: str
    request_batch: int
    sla_p95_ms: float
    sla_source: str
    idle_power_w: float
    parked_power_w: float
    host_lognormal_sigma: float
    host_contention_kappa: float
    gpu_lognormal_sigma: float
    energy_contention: float
    change: _ChangeFile
    variants: dict[str, _PerformanceFile]
    parked_power_source: str = ""
    off_power_w: float = 0.0
    host_power_w: float | None = None
    transport_ms: float = 0.0
    transport_source: str = ""
    batch_size: int = 1
    # How it was measured: read by people, not by the planner.
    measurement: dict[str, Any] = {}


def gpu_models_with_table(application: str) -> list[str]:
    """Return the GPU models for which there is a performance table of an application."""
    folders = (entry for entry in (data_folder() / "profiles").iterdir() if entry.is_dir())
    return sorted(folder.name for folder in folders if (folder / f"{application}.json").is_file())


def load_table(application: str, gpu_model: str, *, path: Path | None = None) -> PerformanceTable:
    """Read the performance table of an application on a GPU model, or the file that the user names instead."""
    parsed, where = _table_file(path, application, gpu_model)
    if (parsed.application, parsed.gpu_model) != (application, gpu_model):
        raise ConfigurationError(
            f"{where}: is for {parsed.application} on {parsed.gpu_model}, expected {application} on {gpu_model}"
        )
    return build(where, lambda: _table(parsed))


def read_table(path: Path | None, application: str = "", gpu_model: str = "") -> dict[str, Any]:
    """Return a table as it is written, checked: a file, or the shipped one of an application on a GPU model."""
    parsed, where = _table_file(path, application, gpu_model)
    build(where, lambda: _table(parsed))
    return msgspec.to_builtins(parsed)


def _table_file(path: Path | None, application: str, gpu_model: str) -> tuple[_TableFile, str]:
    if path is not None:
        text, where = read_text(path, "performance table"), str(path)
    else:
        file = data_folder() / "profiles" / gpu_model / f"{application}.json"
        if not file.is_file():
            known = ", ".join(gpu_models_with_table(application)) or "none"
            raise ConfigurationError(
                f"no performance table of {application} on GPU model {gpu_model!r}; there is one on: {known}",
                hint="give your own table with --profile FILE",
            )
        text, where = file.read_text(), str(file)
    parsed = decode(text, where, _TableFile, msgspec.json.decode)
    if parsed.schema != 1:
        raise ConfigurationError(f"{where}: schema = {parsed.schema}, expected 1")
    return parsed, where


def _table(parsed: _TableFile) -> PerformanceTable:
    change = parsed.change
    return PerformanceTable(
        gpu_model=parsed.gpu_model,
        application=parsed.application,
        provenance=parsed.provenance,
        sla_p95_ms=parsed.sla_p95_ms,
        idle_power_w=parsed.idle_power_w,
        parked_power_w=parsed.parked_power_w,
        off_power_w=parsed.off_power_w,
        transport_ms=parsed.transport_ms,
        batch_size=parsed.batch_size,
        host_lognormal_sigma=parsed.host_lognormal_sigma,
        gpu_lognormal_sigma=parsed.gpu_lognormal_sigma,
        host_contention=parsed.host_contention_kappa,
        energy_contention=parsed.energy_contention,
        change=ChangeTimes(
            create_s=change.create_s,
            destroy_s=change.destroy_s,
            worker_start_s=change.worker_start_s,
            provenance=change.provenance,
        ),
        variants={
            name: VariantPerformance(
                host_ms=p.host_ms,
                service_ms=p.service_ms,
                dynamic_energy_j=p.dynamic_energy_j,
                out_of_memory_on=frozenset(p.out_of_memory_on),
            )
            for name, p in parsed.variants.items()
        },
    )
