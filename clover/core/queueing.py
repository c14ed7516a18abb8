"""Closed form of a fleet under Poisson arrivals and longest-idle dispatch: shares, latency, accuracy and energy.

Method:
* Shares. Under longest-idle dispatch every instance has the same mean idle time I, so an instance of kind k serves
  1 / (S_k + I) requests per second and sum n_k / (S_k + I) = rate determines I (its busy fraction is S_k / (S_k + I)).
* Contention. S_k depends on the mean busy fraction rho of the live instances; both are solved to their fixed point.
* Waiting. Erlang C for n servers with the pooled service rate gives P(wait); W given wait is exponential with mean
  (1 + cv^2) / 2 / (mu - rate), the usual two-moment correction of M/M/n towards M/G/n (Lee and Longton; Whitt 1993).
* Latency. P(W + S > t) mixes the kinds by their shares; S is the sum of two log-normal parts. The host part is
  integrated analytically, the other part and the wait at equally probable nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.configuration import FleetCounts, InstanceKind

Floats = NDArray[np.float64]

_GPU_NODES = 24
_WAIT_NODES = 24


def _normal_quantiles(nodes: int) -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / nodes) for i in range(nodes)])


def _exponential_quantiles(nodes: int) -> Floats:
    return -np.log1p(-(np.arange(nodes) + 0.5) / nodes)


_GPU_Z = _normal_quantiles(_GPU_NODES)
_WAIT_E = _exponential_quantiles(_WAIT_NODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the model says of a fleet at a load.

    Attributes:
        rate_rps: Arrival rate.
        served_rate_rps: What is really served; below the arrival rate if the fleet is overloaded.
        utilisation: Mean busy fraction of the instances (rho).
        p95_ms: 95th percentile of due time to receipt; inf if overloaded.
        late_fraction: P(latency > SLA); 1 if overloaded.
        accuracy_pct: Mean over served requests.
        dynamic_j: Dynamic energy per served request.
        idle_power_w: Of all GPUs, whatever they do.
        shares: Fraction of requests per kind; sums to 1.
    """

    rate_rps: float
    served_rate_rps: float
    utilisation: float
    p95_ms: float
    late_fraction: float
    accuracy_pct: float
    dynamic_j: float
    idle_power_w: float
    shares: Mapping[InstanceKind, float]

    @property
    def stable(self) -> bool:
        """Whether the fleet can carry the load."""
        return math.isfinite(self.p95_ms)

    @property
    def energy_j_per_request(self) -> float:
        """Energy of the whole fleet per served request, in J."""
        return self.dynamic_j + self.idle_power_w / self.served_rate_rps

    def meets(self, late_limit: float) -> bool:
        """Return whether at most this fraction of requests is late."""
        return self.late_fraction <= late_limit


def idle_power_w(model: ServiceModel, fleet: FleetCounts) -> float:
    """Return the power of the fleet without any request, in W."""
    return fleet.active * model.table.idle_power_w + fleet.parked * model.table.parked_power_w


def evaluate(model: ServiceModel, fleet: FleetCounts, rate_rps: float, sla_ms: float) -> Evaluation:
    """Evaluate a fleet under longest-idle dispatch.

    Args:
        model: Application and table.
        fleet: Instances by kind and states of the GPUs; at least one instance.
        rate_rps: Poisson arrival rate, above 0.
        sla_ms: Latency beyond which a request is late.

    Raises:
        ValueError: The rate is not above 0, there is no instance, or a variant does not fit on its profile.
    """
    _check(model, fleet, rate_rps)
    kinds = [kind for kind, _ in fleet.kinds]
    counts = np.array([n for _, n in fleet.kinds], dtype=np.float64)
    operating = _operating_point(model, kinds, counts, rate_rps)
    shares = operating.rates / operating.rates.sum()
    accuracy = float(
        sum(s * model.application.variant(k.variant).accuracy_pct for s, k in zip(shares, kinds, strict=True))
    )
    dynamic = float(sum(s * model.dynamic_j(k.variant, operating.rho) for s, k in zip(shares, kinds, strict=True)))
    late, p95 = 1.0, math.inf
    if not operating.overloaded:
        latency = _Latency(
            model, kinds, shares, operating.rho, _waiting(model, kinds, counts, shares, operating, rate_rps)
        )
        late, p95 = latency.tail(sla_ms), latency.quantile(0.95)
    return Evaluation(
        rate_rps=rate_rps,
        served_rate_rps=float(operating.rates.sum()),
        utilisation=operating.rho,
        p95_ms=p95,
        late_fraction=late,
        accuracy_pct=accuracy,
        dynamic_j=dynamic,
        idle_power_w=idle_power_w(model, fleet),
        shares=dict(zip(kinds, (float(s) for s in shares), strict=True)),
    )


def _check(model: ServiceModel, fleet: FleetCounts, rate_rps: float) -> None:
    if not (math.isfinite(rate_rps) and rate_rps > 0):
        raise ValueError(f"rate_rps = {rate_rps}: expected a finite number above 0")
    if fleet.instances == 0:
        raise ValueError("fleet has no instance: expected at least one")
    for kind, _ in fleet.kinds:
        if not model.fits(kind.variant, kind.profile):
            raise ValueError(f"variant {kind.variant} does not fit on {kind.profile} of {model.table.gpu_model}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operating:
    """Served rate per kind (requests/s) at the fixed point of contention."""

    rates: Floats
    rho: float
    overloaded: bool


def _operating_point(model: ServiceModel, kinds: list[InstanceKind], counts: Floats, rate_rps: float) -> _Operating:
    full = _mean_s(model, kinds, 1.0)
    if float((counts / full).sum()) <= rate_rps:
        return _Operating(rates=counts / full, rho=1.0, overloaded=True)
    # rho -> busy fraction at contention rho rises with rho and stays below 1 here: bisection on the difference.
    low, high = 0.0, 1.0
    for _ in range(50):
        rho = (low + high) / 2.0
        service = _mean_s(model, kinds, rho)
        rates = _rates_longest_idle(service, counts, rate_rps)
        if float((rates * service).sum() / counts.sum()) > rho:
            low = rho
        else:
            high = rho
    rho = (low + high) / 2.0
    return _Operating(
        rates=_rates_longest_idle(_mean_s(model, kinds, rho), counts, rate_rps), rho=rho, overloaded=False
    )


def _mean_s(model: ServiceModel, kinds: list[InstanceKind], rho: float) -> Floats:
    return np.array([model.mean_ms(kind.variant, kind.profile, rho) / 1e3 for kind in kinds])


def _rates_longest_idle(service_s: Floats, counts: Floats, rate_rps: float) -> Floats:
    if float((counts / service_s).sum()) <= rate_rps:
        return counts / service_s
    low, high = 0.0, float(counts.sum()) / rate_rps
    for _ in range(60):
        idle = (low + high) / 2.0
        if float((counts / (service_s + idle)).sum()) > rate_rps:
            low = idle
        else:
            high = idle
    return counts / (service_s + (low + high) / 2.0)


@dataclass(frozen=True, slots=True)
class _Waiting:
    probability: float
    mean_ms: float


def _waiting(
    model: ServiceModel,
    kinds: list[InstanceKind],
    counts: Floats,
    shares: Floats,
    operating: _Operating,
    rate_rps: float,
) -> _Waiting:
    service = _mean_s(model, kinds, operating.rho)
    servers = int(counts.sum())
    pooled_rate = float((counts / service).sum())
    probability = _erlang_c(servers, servers * rate_rps / pooled_rate)
    mean = float((shares * service).sum())
    second = float(sum(s * _second_moment_s2(model, k, operating.rho) for s, k in zip(shares, kinds, strict=True)))
    cv2 = max(0.0, second / mean**2 - 1.0)
    return _Waiting(probability, (1.0 + cv2) / 2.0 / (pooled_rate - rate_rps) * 1e3)


def _second_moment_s2(model: ServiceModel, kind: InstanceKind, rho: float) -> float:
    host = model.host_ms(kind.variant, rho) / 1e3
    gpu = model.gpu_ms(kind.variant, kind.profile) / 1e3
    host_variance = host**2 * math.expm1(model.table.host_lognormal_sigma**2)
    gpu_variance = gpu**2 * math.expm1(model.table.gpu_lognormal_sigma**2)
    return (host + gpu) ** 2 + host_variance + gpu_variance


def _erlang_c(servers: int, offered: float) -> float:
    """Return the probability that an arrival has to wait (Erlang 1917), by the stable recursion of Erlang B."""
    blocking = 1.0
    for n in range(1, servers + 1):
        blocking = offered * blocking / (n + offered * blocking)
    busy = offered / servers
    return blocking / (1.0 - busy * (1.0 - blocking))


class _Latency:
    """Distribution of due time to receipt, mixed over the kinds."""

    def __init__(
        self, model: ServiceModel, kinds: list[InstanceKind], shares: Floats, rho: float, waiting: _Waiting
    ) -> None:
        table = model.table
        self._shares = shares
        self._wait_probability = waiting.probability
        self._host_sigma = max(table.host_lognormal_sigma, 1e-9)
        host = np.array([max(model.host_ms(k.variant, rho), 1e-9) for k in kinds])
        gpu = np.array([model.gpu_ms(k.variant, k.profile) for k in kinds])
        # A log-normal with mean 1 has mu = -sigma^2 / 2.
        self._host_mu = np.log(host) - self._host_sigma**2 / 2.0
        self._gpu = gpu[:, None] * np.exp(table.gpu_lognormal_sigma * _GPU_Z - table.gpu_lognormal_sigma**2 / 2.0)
        self._wait = _WAIT_E * waiting.mean_ms
        self._upper = 20.0 * float((host + gpu).max()) + 20.0 * waiting.mean_ms

    def tail(self, t_ms: float) -> float:
        """Return P(latency > t)."""
        at_once = self._service_tail(t_ms - self._gpu).mean(axis=-1)
        after_wait = self._service_tail(t_ms - self._gpu[:, :, None] - self._wait).mean(axis=(-2, -1))
        per_kind = (1.0 - self._wait_probability) * at_once + self._wait_probability * after_wait
        return float((self._shares * per_kind).sum())

    def quantile(self, q: float) -> float:
        """Return the latency that a fraction q of requests stays within, in ms."""
        low, high = 0.0, self._upper
        for _ in range(40):
            middle = (low + high) / 2.0
            if self.tail(middle) > 1.0 - q:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    def _service_tail(self, left_ms: Floats) -> Floats:
        """Return P(host part > what is left of t), per kind (first axis) and node."""
        mu = self._host_mu.reshape((-1,) + (1,) * (left_ms.ndim - 1))
        z = (np.log(np.maximum(left_ms, 1e-12)) - mu) / self._host_sigma
        return np.where(left_ms <= 0.0, 1.0, _normal_tail(z))


def _normal_tail(z: Floats) -> Floats:
    """Return P(N(0,1) > z) by Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8."""
    x = np.abs(z)
    t = 1.0 / (1.0 + 0.2316419 * x)
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi) * series
    return np.where(z >= 0.0, upper, 1.0 - upper)
