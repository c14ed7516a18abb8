"""Applications, their variants of different accuracy, and how long and how much energy each takes on an instance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

InputKind = Literal["picture", "question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model of an application's family.

    Attributes:
        name: Such as `xxlarge`.
        accuracy_pct: Published accuracy in the application's metric, in per cent.
        source: Where the accuracy was published.
    """

    name: str
    accuracy_pct: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A service that several variants can answer.

    Attributes:
        name: Such as `albert`.
        title: For people.
        accuracy_metric: Name and unit of the accuracy, such as `ImageNet top-1, %`.
        request: What one request is, such as `8 pictures`.
        servicer: `table` if only simulated figures exist, otherwise the model family that runs it.
        input: What a request asks about: `picture` or `question`.
        request_items: How many of them one request holds.
        variants: From the least to the most accurate.
        default_rate_rps_per_gpu: Load that one whole GPU with the largest variant carries well.
    """

    name: str
    title: str
    accuracy_metric: str
    request: str
    servicer: str
    variants: tuple[Variant, ...]
    default_rate_rps_per_gpu: float = 0.5
    input: InputKind = "picture"
    request_items: int = 1

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError(f"application {self.name}: variants is empty, expected at least one")
        if self.request_items < 1:
            raise ValueError(f"application {self.name}: request_items = {self.request_items}, expected at least 1")
        accuracies = [variant.accuracy_pct for variant in self.variants]
        if accuracies != sorted(accuracies):
            raise ValueError(f"application {self.name}: variants must be ordered by accuracy, got {accuracies}")

    def variant(self, name: str) -> Variant:
        """Return a variant by name; raises ValueError naming those that exist."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise ValueError(f"variant {name!r} of application {self.name}: unknown, expected one of {known}")

    @property
    def largest(self) -> Variant:
        """The most accurate variant, which BASE serves."""
        return self.variants[-1]

    @property
    def smallest(self) -> Variant:
        """The least accurate variant, which CO2OPT serves."""
        return self.variants[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantPerformance:
    """Mean times of one inference, which answers `batch_size` requests of the table, and energy of one request.

    Attributes:
        host_ms: Part of the service time that does not run on the instance (decode, pre- and post-processing).
        service_ms: Part on the instance, by profile size such as `3g`.
        dynamic_energy_j: Energy above idle, at an empty machine, per request.
        out_of_memory_on: Profile sizes on which the variant does not fit.
    """

    host_ms: float
    service_ms: Mapping[str, float]
    dynamic_energy_j: float
    out_of_memory_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeTimes:
    """What a change of a GPU costs in real seconds.

    Attributes:
        create_s, destroy_s: Per GPU instance.
        worker_start_s: To start a worker and load its model; workers of one GPU start side by side.
        provenance: `assumed` until measured.
    """

    create_s: float
    destroy_s: float
    worker_start_s: float
    provenance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceTable:
    """How the variants of one application behave on one GPU model.

    The service time of a request is
    `host_ms x LogNormal(mean 1, host_sigma) x (1 + contention x rho) + service_ms x LogNormal(mean 1, gpu_sigma)`
    with rho the mean busy fraction of the live instances; its dynamic energy `dynamic_energy_j x (1 -
    energy_contention x rho)`. Beside the service a request takes `transport_ms`.

    A table of batches says what a full batch takes. An instance that always serves full batches works as fast as one
    that serves single requests in 1 / `batch_size` of that time; beside, a request waits for the others of its batch
    and, at most, for those of the batch before.

    Attributes:
        gpu_model: Such as `a100-40gb`.
        application: Name of the application.
        provenance: Where the figures come from and how far they can be trusted.
        sla_p95_ms: 95th percentile of latency that the service promises on this GPU model.
        idle_power_w: One GPU that works but has nothing to do.
        parked_power_w: One GPU without workers.
        off_power_w: One GPU that is switched off.
        host_lognormal_sigma, gpu_lognormal_sigma: Spread of the two parts (standard deviation of the logarithm).
        host_contention: Relative growth of the host part at rho = 1 (kappa).
        energy_contention: Relative fall of dynamic energy at rho = 1 (c).
        change: What a change costs.
        variants: Performance by variant name.
        transport_ms: From the due time of a request to the begin of its service, and from its end to the receipt of
            the reply, when nothing waits; constant, and no instance is busy with it.
        batch_size: Requests that are answered with one inference.
    """

    gpu_model: str
    application: str
    provenance: str
    sla_p95_ms: float
    idle_power_w: float
    parked_power_w: float
    host_lognormal_sigma: float
    gpu_lognormal_sigma: float
    host_contention: float
    energy_contention: float
    change: ChangeTimes
    variants: Mapping[str, VariantPerformance]
    off_power_w: float = 0.0
    transport_ms: float = 0.0
    batch_size: int = 1

    def __post_init__(self) -> None:
        _positive(f"table {self.application} on {self.gpu_model}: sla_p95_ms", self.sla_p95_ms)
        for name in (
            "idle_power_w",
            "parked_power_w",
            "off_power_w",
            "host_lognormal_sigma",
            "gpu_lognormal_sigma",
            "host_contention",
            "transport_ms",
        ):
            _not_negative(f"table {self.application} on {self.gpu_model}: {name}", getattr(self, name))
        if not 0.0 <= self.energy_contention < 1.0:
            raise ValueError(f"energy_contention = {self.energy_contention}: expected 0 <= c < 1")
        if self.batch_size < 1:
            raise ValueError(
                f"table {self.application} on {self.gpu_model}: batch_size = {self.batch_size}, expected 1 or more"
            )
        for name in ("create_s", "destroy_s", "worker_start_s"):
            _not_negative(f"table {self.application} on {self.gpu_model}: change.{name}", getattr(self.change, name))
        for variant, performance in self.variants.items():
            where = f"table {self.application} on {self.gpu_model}: variant {variant}"
            _not_negative(f"{where}: host_ms", performance.host_ms)
            _not_negative(f"{where}: dynamic_energy_j", performance.dynamic_energy_j)
            if not performance.service_ms:
                raise ValueError(f"{where}: service_ms is empty, expected a time for at least one profile size")
            for size, service_ms in performance.service_ms.items():
                _positive(f"{where}: service_ms[{size}]", service_ms)
        # A copy of its own, and a plain one: tables travel between processes.
        object.__setattr__(self, "variants", dict(self.variants))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceModel:
    """An application together with its table on the GPU model of the fleet: all that planning and simulation need."""

    application: Application
    table: PerformanceTable

    def __post_init__(self) -> None:
        missing = [v.name for v in self.application.variants if v.name not in self.table.variants]
        extra = sorted(set(self.table.variants) - {v.name for v in self.application.variants})
        if missing or extra:
            raise ValueError(
                f"table {self.table.application} on {self.table.gpu_model}: "
                f"variants missing: {missing}, unknown: {extra}"
            )

    def fits(self, variant: str, profile: str) -> bool:
        """Return whether the variant can run on a profile size at all."""
        performance = self.table.variants[variant]
        return profile in performance.service_ms and profile not in performance.out_of_memory_on

    def host_ms(self, variant: str, rho: float) -> float:
        """Return the mean host part of the service time in ms when a fraction `rho` of the instances is busy.

        All times of this class are those of one request: its part of the batch, if there are batches.
        """
        whole_ms = self.table.variants[variant].host_ms * (1.0 + self.table.host_contention * rho)
        return whole_ms / self.table.batch_size

    def gpu_ms(self, variant: str, profile: str) -> float:
        """Return the mean part of the service time in ms that runs on the instance."""
        return self.table.variants[variant].service_ms[profile] / self.table.batch_size

    def mean_ms(self, variant: str, profile: str, rho: float) -> float:
        """Return the mean service time in ms."""
        return self.host_ms(variant, rho) + self.gpu_ms(variant, profile)

    def beside_ms(self, variant: str, profile: str) -> float:
        """Return the mean part of a request's latency in ms for which it occupies no instance, waiting left out.

        That is the transport, and what the others of its batch take, and those of the batch that may be under way when
        it arrives: at most.
        """
        others = 2 * (self.table.batch_size - 1)
        return self.table.transport_ms + others * self.mean_ms(variant, profile, 0.0)

    def dynamic_j(self, variant: str, rho: float) -> float:
        """Return the dynamic energy of one request in J."""
        return self.table.variants[variant].dynamic_energy_j * (1.0 - self.table.energy_contention * rho)


def _positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{field} = {value}: expected a finite number above 0")


def _not_negative(field: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{field} = {value}: expected a finite number, 0 or more")
