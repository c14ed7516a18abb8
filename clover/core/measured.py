"""Points measured on real GPUs: what tables are fitted to and validated against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from clover.core.configuration import InstanceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """One configuration at one load.

    Attributes:
        application: Name of the application.
        instances: Of one GPU; all GPUs are alike.
        gpus: How many there are.
        interarrival_s: Mean of the exponential gaps between requests.
        requests: How many were sent.
        saturated: The fleet could not keep up.
        served_rate_rps: Requests/s that were served.
        p95_ms: 95th percentile of latency, queueing included.
        energy_j_per_request: Of all GPUs.
        accuracy_pct: Over the served requests.
    """

    application: str
    instances: tuple[InstanceKind, ...]
    gpus: int
    interarrival_s: float
    requests: int
    saturated: bool
    served_rate_rps: float
    p95_ms: float
    energy_j_per_request: float
    accuracy_pct: float

    def __post_init__(self) -> None:
        for name in ("gpus", "interarrival_s", "requests", "served_rate_rps", "p95_ms", "energy_j_per_request"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value}: expected a finite number above 0")

    @property
    def configuration(self) -> str:
        """For people, such as `2 x [4g:large 3g:base]`."""
        return f"{self.gpus} x [{' '.join(str(kind) for kind in self.instances)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Errors at a point when all points of its load were left out of the fit.

    Attributes:
        point: Which one.
        p95_error_pct, served_rate_error_pct, energy_error_pct: Simulated against measured, relative.
        accuracy_error_points: The same, absolute.
    """

    point: MeasuredPoint
    p95_error_pct: float
    served_rate_error_pct: float
    energy_error_pct: float
    accuracy_error_points: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantPrior:
    """What is known of a variant before any fit.

    Attributes:
        work: Of one forward pass, comparable within a family only.
        input_px: Edge of its input pictures; 0 if it takes none.
        host_ms: Modelled host part of the service time.
    """

    work: float
    input_px: float
    host_ms: float

    def __post_init__(self) -> None:
        if not (self.work > 0 and self.host_ms > 0 and self.input_px >= 0):
            raise ValueError(f"work = {self.work}, host_ms = {self.host_ms}: expected numbers above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is known of an application before any fit.

    Attributes:
        host_lognormal_sigma, host_contention: Modelled spread and growth of the host part.
        variants: By name.
    """

    host_lognormal_sigma: float
    host_contention: float
    variants: Mapping[str, VariantPrior]

    def relative_work(self, variant: str) -> float:
        """Return a variant's work over that of the largest one."""
        return self.variants[variant].work / max(each.work for each in self.variants.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All points of one GPU model, and what was known before them, by application."""

    gpu_model: str
    source: str
    points: tuple[MeasuredPoint, ...]
    prior: Mapping[str, Prior]
