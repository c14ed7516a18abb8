"""Reads what was measured on real GPUs, and how well the tables predict what their fit did not see."""

from __future__ import annotations

import msgspec

from clover.core.configuration import InstanceKind
from clover.core.measured import LeftOut, MeasuredPoint, Measurements, Prior, VariantPrior
from clover.data_files import build, data_folder, decode
from clover.errors import ConfigurationError


class _PointFile(msgspec.Struct, forbid_unknown_fields=True):
    app: str
    configuration: list[str]
    gpus: int
    interarrival_s: float
    requests: int
    saturated: bool
    served_rate_rps: float
    p95_ms: float
    energy_j_per_request: float
    accuracy_pct: float


class _VariantPriorFile(msgspec.Struct, forbid_unknown_fields=True):
    work: float
    input_px: float
    host_ms: float


class _PriorFile(msgspec.Struct, forbid_unknown_fields=True):
    host_lognormal_sigma: float
    host_contention_kappa: float
    variants: dict[str, _VariantPriorFile]


class _MeasurementsFile(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    gpu_model: str
    source: str
    points: list[_PointFile]
    prior_source: str
    prior: dict[str, _PriorFile]


class _LeftOutFile(msgspec.Struct, forbid_unknown_fields=True):
    app: str
    configuration: str
    interarrival_s: float
    p95_error_pct: float
    served_rate_error_pct: float
    energy_error_pct: float
    accuracy_error_points: float


class _CalibrationFile(msgspec.Struct):
    schema: int
    gpu_model: str
    leave_one_load_out: list[_LeftOutFile]


def load_measurements(gpu_model: str) -> Measurements:
    """Read the points that were measured on a GPU model; raises ConfigurationError if there are none."""
    file = data_folder() / "measurements" / f"{gpu_model}.json"
    if not file.is_file():
        raise ConfigurationError(f"no measurements of GPU model {gpu_model!r}")
    parsed = decode(file.read_text(), str(file), _MeasurementsFile, msgspec.json.decode)
    return build(
        str(file),
        lambda: Measurements(
            gpu_model=parsed.gpu_model,
            source=parsed.source,
            points=tuple(_point(point) for point in parsed.points),
            prior={app: _prior(prior) for app, prior in parsed.prior.items()},
        ),
    )


def load_left_out(measurements: Measurements) -> tuple[LeftOut, ...]:
    """Read what the fit of the shipped tables said of each point when its load was left out, in the points' order.

    Raises:
        ConfigurationError: The report is missing, or does not have every point.
    """
    file = data_folder() / "calibration" / f"{measurements.gpu_model}.json"
    if not file.is_file():
        raise ConfigurationError(f"no report of the fit for GPU model {measurements.gpu_model!r}")
    parsed = decode(file.read_text(), str(file), _CalibrationFile, msgspec.json.decode)
    found = {(each.app, each.configuration, each.interarrival_s): each for each in parsed.leave_one_load_out}
    result: list[LeftOut] = []
    for point in measurements.points:
        each = found.get((point.application, point.configuration, point.interarrival_s))
        if each is None:
            raise ConfigurationError(
                f"{file}: nothing about {point.application} {point.configuration} at {point.interarrival_s} s",
                hint="run python benchmarks/fit_tables.py",
            )
        result.append(
            LeftOut(
                point=point,
                p95_error_pct=each.p95_error_pct,
                served_rate_error_pct=each.served_rate_error_pct,
                energy_error_pct=each.energy_error_pct,
                accuracy_error_points=each.accuracy_error_points,
            )
        )
    return tuple(result)


def _prior(parsed: _PriorFile) -> Prior:
    return Prior(
        host_lognormal_sigma=parsed.host_lognormal_sigma,
        host_contention=parsed.host_contention_kappa,
        variants={
            name: VariantPrior(work=v.work, input_px=v.input_px, host_ms=v.host_ms)
            for name, v in parsed.variants.items()
        },
    )


def _point(parsed: _PointFile) -> MeasuredPoint:
    return MeasuredPoint(
        application=parsed.app,
        instances=tuple(InstanceKind(*text.split(":", 1)) for text in parsed.configuration),
        gpus=parsed.gpus,
        interarrival_s=parsed.interarrival_s,
        requests=parsed.requests,
        saturated=parsed.saturated,
        served_rate_rps=parsed.served_rate_rps,
        p95_ms=parsed.p95_ms,
        energy_j_per_request=parsed.energy_j_per_request,
        accuracy_pct=parsed.accuracy_pct,
    )
