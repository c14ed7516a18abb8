"""Applications, alone or with their performance table, and carbon traces, by name or by a file of the user's.

Every error says which file, which field, what it holds and what was expected. Tables are read by
`clover.performance_tables`.
"""

from __future__ import annotations

import os
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from clover.core.application import (
    Application,
    ChangeTimes,
    InputKind,
    PerformanceTable,
    ServiceModel,
    Variant,
    VariantPerformance,
)
from clover.core.intensity_trace import IntensityTrace, constant_trace, parse_trace
from clover.data_files import build, data_folder, decode, read_text
from clover.errors import ConfigurationError, TraceError
from clover.performance_tables import load_table
from clover.serving.recipe import RANDOM, Recipe

#: Stand where nothing has been measured.
_UNMEASURED_MS: dict[str, float] = dict.fromkeys(("7g", "4g", "3g", "2g", "1g"), 1000.0)
_UNMEASURED_SLA_MS = 10_000.0


class _VariantFile(msgspec.Struct, forbid_unknown_fields=True):
    accuracy: float
    source: str
    sha256: str = ""
    weights: str = ""
    parameters: int = 0
    # A table may leave this variant out.
    optional: bool = False
    options: dict[str, Any] = {}


class _ApplicationFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    title: str
    accuracy_metric: str
    request: str
    servicer: str
    variants: dict[str, _VariantFile]
    default_rate_rps_per_gpu: float = 0.5
    input: InputKind = "picture"
    request_items: int = 1
    options: dict[str, Any] = {}


def application_names() -> list[str]:
    """Return the names of the applications that Clover knows."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in (data_folder() / "applications").iterdir()
        if entry.name.endswith(".toml")
    )


def load_application(name: str) -> Application:
    """Read an application: one that ships, by its name, or the user's own, by the path of a `.toml` file.

    Raises:
        ConfigurationError: There is none, or its file is wrong; names those that exist.
    """
    parsed, where = _application_file(name)
    return build(where, lambda: _application(parsed, list(parsed.variants)))


def load_recipes(name: str, weights: str = "") -> dict[str, Recipe]:
    """Return how to load each variant of an application, by variant.

    Args:
        name: As for `load_application`.
        weights: Empty for the published weights that the application file names; `random` for the true architecture
            with random weights; else a folder that holds the weights (of each variant in a folder of its name, if
            there is one).

    Raises:
        ConfigurationError: The application is unknown, or the folder is not there.
    """
    parsed, where = _application_file(name)
    folder = str(Path(where).parent) if name.endswith(".toml") else ""
    chosen = weights if weights in {"", RANDOM} else str(_weights_folder(weights))
    return {
        variant: Recipe(
            application=parsed.name,
            family=parsed.servicer,
            variant=variant,
            weights=_weights_of(variant, chosen) or v.weights,
            folder=folder,
            sha256=v.sha256,
            parameters=v.parameters,
            options=parsed.options | v.options,
        )
        for variant, v in parsed.variants.items()
    }


def _weights_folder(weights: str) -> Path:
    folder = Path(weights).resolve()
    if not folder.is_dir():
        raise ConfigurationError(f"--weights = {weights!r}: expected random, or a folder with weights")
    return folder


def _weights_of(variant: str, chosen: str) -> str:
    own = Path(chosen) / variant
    return str(own) if chosen not in {"", RANDOM} and own.is_dir() else chosen


def _application_file(name: str) -> tuple[_ApplicationFile, str]:
    """Return the parsed file of an application, and its path (of one that ships: its name)."""
    if name.endswith(".toml"):
        parsed = decode(read_text(Path(name), "application"), name, _ApplicationFile, msgspec.toml.decode)
        return parsed, str(Path(name).resolve())
    if name not in application_names():
        raise ConfigurationError(
            f"application {name!r} is unknown, expected one of {', '.join(application_names())}",
            hint="an application of your own is named by the path of its file, which ends in .toml",
        )
    file = data_folder() / "applications" / f"{name}.toml"
    return decode(file.read_text(), str(file), _ApplicationFile, msgspec.toml.decode), name


def _application(parsed: _ApplicationFile, names: list[str]) -> Application:
    return Application(
        name=parsed.name,
        title=parsed.title,
        accuracy_metric=parsed.accuracy_metric,
        request=parsed.request,
        servicer=parsed.servicer,
        default_rate_rps_per_gpu=parsed.default_rate_rps_per_gpu,
        input=parsed.input,
        request_items=parsed.request_items,
        variants=tuple(
            Variant(name=name, accuracy_pct=parsed.variants[name].accuracy, source=parsed.variants[name].source)
            for name in names
        ),
    )


def load_service(
    application: str, gpu_model: str, *, path: Path | None = None, variant: str | None = None
) -> ServiceModel:
    """Read an application together with its table; of variants marked `optional` only those in the table.

    Args:
        application: As for `load_application`.
        gpu_model: Whose table.
        path: A table of the user's instead of the one that ships.
        variant: The only variant to serve; None means all.
    """
    parsed, where = _application_file(application)
    table = load_table(parsed.name, gpu_model, path=path)
    if variant is not None and variant not in table.variants:
        raise ConfigurationError(
            f"variant {variant!r} of {parsed.name}: unknown, expected one of {', '.join(table.variants)}"
        )
    names = [name for name, v in parsed.variants.items() if name in table.variants or not v.optional]
    if variant is not None:
        names = [variant]
        table = replace(table, variants={variant: table.variants[variant]})
    return build(
        f"{application} on {gpu_model}",
        lambda: ServiceModel(application=build(where, lambda: _application(parsed, names)), table=table),
    )


def unmeasured_service(application: str, gpu_model: str, *, variant: str | None = None) -> ServiceModel:
    """Read an application that has no table on a GPU model: with figures that only keep its place.

    Good for starting instances and measuring them; never for planning.
    """
    parsed, where = _application_file(application)
    if variant is not None and variant not in parsed.variants:
        raise ConfigurationError(
            f"variant {variant!r} of {parsed.name}: unknown, expected one of {', '.join(parsed.variants)}"
        )
    names = list(parsed.variants) if variant is None else [variant]
    unknown = VariantPerformance(host_ms=0.0, service_ms=_UNMEASURED_MS, dynamic_energy_j=1.0)
    table = PerformanceTable(
        gpu_model=gpu_model,
        application=parsed.name,
        provenance="not measured",
        sla_p95_ms=_UNMEASURED_SLA_MS,
        idle_power_w=1.0,
        parked_power_w=0.0,
        host_lognormal_sigma=0.0,
        gpu_lognormal_sigma=0.0,
        host_contention=0.0,
        energy_contention=0.0,
        change=ChangeTimes(create_s=0.0, destroy_s=0.0, worker_start_s=0.0, provenance="not measured"),
        variants=dict.fromkeys(names, unknown),
    )
    return ServiceModel(application=build(where, lambda: _application(parsed, names)), table=table)


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


def trace_path(name: str) -> Path | None:
    """Return the file of a carbon trace; None for a constant, which has none."""
    if name.startswith("constant:"):
        return None
    if name in trace_names():
        return traces_folder() / "carbon" / f"{name}.csv"
    if name.endswith(".csv") or os.sep in name:
        return Path(name)
    raise TraceError(
        f"trace {name!r} is unknown, expected one of {', '.join(trace_names())}, a CSV file or constant:<gCO2e per kWh>"
    )


def load_trace(name: str) -> IntensityTrace:
    """Read a carbon trace: a name from `traces/carbon`, a CSV path, or `constant:<gCO2e/kWh>`."""
    kind, colon, value = name.partition(":")
    if kind == "constant" and colon:
        try:
            return constant_trace(float(value))
        except ValueError:
            raise TraceError(f"trace {name!r}: {value!r} is not a number, expected constant:<gCO2e per kWh>") from None
    path = trace_path(name)
    if path is None:
        raise AssertionError("only constants have no file")
    return parse_trace(read_text(path, "trace"), name=path.stem)
