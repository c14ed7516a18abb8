"""Measured service times and energy against the table in use; what drifts too far is taken over. Pure.

The logarithm of measured / expected is averaged with exponential weights by requests. A sample far from what was seen
so far is left out, unless the next ones agree with it: then the world has changed, and the average begins anew from
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from clover.core.application import PerformanceTable, ServiceModel, VariantPerformance
from clover.core.configuration import InstanceKind

_K = TypeVar("_K")

#: Beyond this part the table in use is changed.
DRIFT = 0.10
#: So many requests weigh as much as all before them.
MEMORY_REQUESTS = 400.0
#: Fewer requests since the last change of the table say nothing, nor does an average with a larger standard error.
LEAST_REQUESTS, MOST_ERROR = 150, 0.03
#: Samples further off than so many of their standard errors, and than so much, are outliers; three in a row are not.
OUTLIER_ERRORS, OUTLIER_LEAST, OUTLIERS_BELIEVED = 4.0, 0.15, 3
#: A request's own spread, until there is an estimate (coefficient of variation of one service time).
_SPREAD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was measured of one kind (or one variant, for energy) since the last sample.

    Attributes:
        requests: How many.
        measured: Mean per request, ms or J.
        expected: By the table as it was given, under the same contention.
    """

    requests: int
    measured: float
    expected: float


@dataclass(slots=True)
class DriftEstimate:
    """Running average of log(measured / expected), and what it is unsure by."""

    log_ratio: float = 0.0
    requests: float = 0.0
    seen: int = 0
    _outliers: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    @property
    def ratio(self) -> float:
        """Measured / given table."""
        return math.exp(self.log_ratio)

    @property
    def error(self) -> float:
        """Standard error of the logarithm."""
        return _SPREAD / math.sqrt(self.requests) if self.requests else math.inf

    def take(self, sample: Sample) -> None:
        """Take in a sample; outliers are kept aside until they are proven right."""
        if sample.requests < 1 or sample.measured <= 0.0 or sample.expected <= 0.0:
            return
        log = math.log(sample.measured / sample.expected)
        far = max(OUTLIER_LEAST, OUTLIER_ERRORS * math.hypot(self.error, _SPREAD / math.sqrt(sample.requests)))
        if self.requests and abs(log - self.log_ratio) > far:
            self._outliers.append((log, sample.requests))
            if len(self._outliers) < OUTLIERS_BELIEVED:
                return
            self._begin_anew()
            return
        self._outliers.clear()
        self._add(log, sample.requests)

    def _begin_anew(self) -> None:
        outliers, self._outliers = self._outliers, []
        self.log_ratio, self.requests, self.seen = 0.0, 0.0, 0
        for log, requests in outliers:
            self._add(log, requests)

    def _add(self, log: float, requests: int) -> None:
        keep = 0.5 ** (requests / MEMORY_REQUESTS)
        total = self.requests * keep + requests
        self.log_ratio += (log - self.log_ratio) * requests / total
        self.requests = total
        self.seen += requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Measured / given: service time by kind, energy by variant; what is not named was not measured."""

    service: Mapping[InstanceKind, float] = field(default_factory=dict[InstanceKind, float])
    energy: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True)
class Calibrator:
    """Collects samples and says when the table in use must change.

    Attributes:
        in_use: What the table in use was made with.
    """

    in_use: Factors = field(default_factory=Factors)
    _service: dict[InstanceKind, DriftEstimate] = field(default_factory=dict[InstanceKind, DriftEstimate])
    _energy: dict[str, DriftEstimate] = field(default_factory=dict[str, DriftEstimate])

    def take_service(self, kind: InstanceKind, sample: Sample) -> None:
        """Take in service times of a kind."""
        self._service.setdefault(kind, DriftEstimate()).take(sample)

    def take_energy(self, variant: str, sample: Sample) -> None:
        """Take in dynamic energy of a variant."""
        self._energy.setdefault(variant, DriftEstimate()).take(sample)

    def drift(self) -> tuple[Factors, str] | None:
        """Return new factors and what drifted, if anything did by more than 10 % against the table in use.

        Everything that is well known is taken over with it, so that one plan takes all of it in.
        """
        service = {kind: e.ratio for kind, e in self._service.items() if _known(e)}
        energy = {variant: e.ratio for variant, e in self._energy.items() if _known(e)}
        told = [
            *_drifted("service time", service, _mean(self.in_use.service), self.in_use.service),
            *_drifted("energy", energy, _mean(self.in_use.energy), self.in_use.energy),
        ]
        if not told:
            return None
        self.in_use = Factors(
            service={**self.in_use.service, **service},
            energy={**self.in_use.energy, **energy},
        )
        return self.in_use, "; ".join(told)


def _known(estimate: DriftEstimate) -> bool:
    return estimate.seen >= LEAST_REQUESTS and estimate.error <= MOST_ERROR


def _drifted(what: str, measured: Mapping[_K, float], mean: float, in_use: Mapping[_K, float]) -> list[str]:
    told: list[str] = []
    for key, ratio in sorted(measured.items(), key=lambda item: str(item[0])):
        now = in_use.get(key, mean)
        if abs(ratio / now - 1.0) > DRIFT:
            told.append(f"{what} of {key} {100.0 * (ratio / now - 1.0):+.0f} % off the table")
    return told


def _mean(factors: Mapping[_K, float]) -> float:
    """Return the geometric mean, 1 if there is none: what is not measured is taken to be as far off as what is."""
    return math.exp(sum(math.log(f) for f in factors.values()) / len(factors)) if factors else 1.0


def calibrated(model: ServiceModel, factors: Factors) -> ServiceModel:
    """Return the model with a table that says what was measured.

    Of a service time only the whole is measured. The host part of a variant is scaled by the smallest factor of its
    kinds, the part on the instance takes the rest, so that both stay above 0. Profiles that were not measured are
    scaled like the variant's others, variants that were not like all (geometric means).
    """
    if not (factors.service or factors.energy):
        return model
    variants = {name: _scaled(name, performance, factors) for name, performance in model.table.variants.items()}
    table: PerformanceTable = replace(
        model.table, variants=variants, provenance=f"{model.table.provenance}; re-calibrated while serving"
    )
    return ServiceModel(application=model.application, table=table)


def _scaled(name: str, performance: VariantPerformance, factors: Factors) -> VariantPerformance:
    own = {kind.profile: factor for kind, factor in factors.service.items() if kind.variant == name}
    mean = _mean(own) if own else _mean(factors.service)
    by_profile = {profile: own.get(profile, mean) for profile in performance.service_ms}
    least = min(by_profile.values())
    host = performance.host_ms
    return replace(
        performance,
        host_ms=host * least,
        service_ms={
            profile: by_profile[profile] * (host + gpu) - host * least
            for profile, gpu in performance.service_ms.items()
        },
        dynamic_energy_j=performance.dynamic_energy_j * factors.energy.get(name, _mean(factors.energy)),
    )
