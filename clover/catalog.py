"""Reads the files that ship with Clover or that the user names: applications, performance tables, traces.

Every error says which file, which field, what it holds and what was expected.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import msgspec

from clover.core.application import (
    Application,
    ChangeTimes,
    PerformanceTable,
    ServiceModel,
    Variant,
    VariantPerformance,
)
from clover.core.intensity_trace import IntensityTrace, constant_trace, parse_trace
from clover.data_files import build, data_folder, decode, read_text
from clover.errors import ConfigurationError, TraceError


class _VariantFile(msgspec.Struct, forbid_unknown_fields=True):
    accuracy: float
    source: str
    sha256: str = ""


class _ApplicationFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    title: str
    accuracy_metric: str
    request: str
    servicer: str
    variants: dict[str, _VariantFile]
    default_rate_rps_per_gpu: float = 0.5


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


def application_names() -> list[str]:
    """Return the names of the applications that Clover knows."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in (data_folder() / "applications").iterdir()
        if entry.name.endswith(".toml")
    )


def gpu_models_with_table(application: str) -> list[str]:
    """Return the GPU models for which there is a performance table of an application."""
    folders = (entry for entry in (data_folder() / "profiles").iterdir() if entry.is_dir())
    return sorted(folder.name for folder in folders if (folder / f"{application}.json").is_file())


def load_application(name: str) -> Application:
    """Read an application by name; raises ConfigurationError naming those that exist."""
    file = data_folder() / "applications" / f"{name}.toml"
    if name not in application_names():
        raise ConfigurationError(f"application {name!r} is unknown, expected one of {', '.join(application_names())}")
    parsed = decode(file.read_text(), str(file), _ApplicationFile, msgspec.toml.decode)
    variants = tuple(
        Variant(name=variant, accuracy_pct=v.accuracy, source=v.source) for variant, v in parsed.variants.items()
    )
    return build(
        str(file),
        lambda: Application(
            name=parsed.name,
            title=parsed.title,
            accuracy_metric=parsed.accuracy_metric,
            request=parsed.request,
            servicer=parsed.servicer,
            default_rate_rps_per_gpu=parsed.default_rate_rps_per_gpu,
            variants=variants,
        ),
    )


def load_table(application: str, gpu_model: str, *, path: Path | None = None) -> PerformanceTable:
    """Read the performance table of an application on a GPU model, or the file that the user names instead."""
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
    if (parsed.application, parsed.gpu_model) != (application, gpu_model):
        raise ConfigurationError(
            f"{where}: is for {parsed.application} on {parsed.gpu_model}, expected {application} on {gpu_model}"
        )
    return build(where, lambda: _table(parsed))


def load_service(application: str, gpu_model: str, *, path: Path | None = None) -> ServiceModel:
    """Read an application together with its table."""
    app = load_application(application)
    table = load_table(application, gpu_model, path=path)
    return build(f"{application} on {gpu_model}", lambda: ServiceModel(application=app, table=table))


def traces_folder() -> Path:
    """Return where traces are: `CLOVER_TRACES`, then the checkout, then the installed data path."""
    override = os.environ.get("CLOVER_TRACES")
    if override:
        if not Path(override).is_dir():
            raise ConfigurationError(f"CLOVER_TRACES = {override!r}: not a folder")
        return Path(override)
    checkout = Path(__file__).resolve().parent.parent / "traces"
    if (checkout / "carbon").is_dir():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "clover" / "traces"


def trace_names() -> list[str]:
    """Return the names of the carbon traces that are there."""
    return sorted(file.stem for file in (traces_folder() / "carbon").glob("*.csv"))


def load_trace(name: str) -> IntensityTrace:
    """Read a carbon trace: a name from `traces/carbon`, a CSV path, or `constant:<gCO2e/kWh>`."""
    kind, colon, value = name.partition(":")
    if kind == "constant" and colon:
        try:
            return constant_trace(float(value))
        except ValueError:
            raise TraceError(f"trace {name!r}: {value!r} is not a number, expected constant:<gCO2e per kWh>") from None
    if name in trace_names():
        path = traces_folder() / "carbon" / f"{name}.csv"
    elif name.endswith(".csv") or os.sep in name:
        path = Path(name)
    else:
        raise TraceError(
            f"trace {name!r} is unknown, expected one of {', '.join(trace_names())}, "
            "a CSV file or constant:<gCO2e per kWh>"
        )
    return parse_trace(read_text(path, "trace"), name=path.stem)


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
