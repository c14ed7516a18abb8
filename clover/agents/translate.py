"""Between the values of the pure core and the structs of the wire."""

from __future__ import annotations

from collections.abc import Collection

from clover.bus import messages
from clover.core.application import ServiceModel
from clover.core.carbon import CarbonIntensity
from clover.core.configuration import Configuration, GpuConfiguration, InstanceKind
from clover.core.dispatch import DispatchRule
from clover.core.forecast import Outlook
from clover.core.queueing import Evaluation
from clover.plan.problem import Candidate, FleetCandidate


def gpu_target(index: int, gpu: GpuConfiguration) -> messages.GpuTarget:
    """Write one GPU's configuration as a target."""
    instances = tuple(messages.InstanceTarget(profile=k.profile, variant=k.variant) for k in gpu.instances)
    return messages.GpuTarget(index=index, mode=gpu.mode, instances=instances)


def gpu_configuration(target: messages.GpuTarget) -> GpuConfiguration:
    """Read one GPU's configuration; raises ValueError if it contradicts itself."""
    kinds = tuple(InstanceKind(instance.profile, instance.variant) for instance in target.instances)
    return GpuConfiguration(kinds, target.mode)


def serving_configuration(gpu: messages.GpuTelemetry) -> GpuConfiguration | None:
    """Read what a serving GPU serves with from its telemetry; None if it does not serve, or with what cannot be."""
    if gpu.phase != "serving":
        return None
    try:
        return GpuConfiguration(tuple(InstanceKind(instance.profile, instance.variant) for instance in gpu.instances))
    except ValueError:
        return None


def live_configuration(gpu: messages.GpuTelemetry) -> GpuConfiguration | None:
    """Read which instances of a GPU take requests, in whatever phase it is; None if none does."""
    live = [instance for instance in gpu.instances if instance.phase in {"idle", "busy"}]
    return GpuConfiguration(tuple(InstanceKind(each.profile, each.variant) for each in live)) if live else None


def by_node(configuration: Configuration) -> dict[str, tuple[messages.GpuTarget, ...]]:
    """Write a fleet's configuration, node by node."""
    nodes: dict[str, list[messages.GpuTarget]] = {}
    for gpu_id, gpu in configuration.gpus:
        nodes.setdefault(gpu_id.node, []).append(gpu_target(gpu_id.index, gpu))
    return {node: tuple(targets) for node, targets in nodes.items()}


def dispatch_rule(rule: messages.DispatchRule) -> DispatchRule:
    """Read a dispatch rule."""
    shares = {InstanceKind(share.profile, share.variant): share.share for share in rule.shares}
    return DispatchRule(name=rule.name, hold_back=rule.hold_back, shares=shares, weight=rule.weight)


def dispatch_target(rule: DispatchRule) -> messages.DispatchRule:
    """Write a dispatch rule; shares are rounded to a millionth, so that equal plans give equal targets."""
    shares = tuple(
        messages.Share(variant=kind.variant, profile=kind.profile, share=round(share, 6))
        for kind, share in sorted(rule.shares.items())
    )
    weight = round(rule.weight, 6)
    return messages.DispatchRule(name=rule.name, hold_back=rule.hold_back, shares=shares, weight=weight)


def prediction(evaluation: Evaluation, objective: float) -> messages.Prediction:
    """Write an evaluation; an infinite p95 becomes None."""
    return messages.Prediction(
        rate_rps=evaluation.rate_rps,
        p95_ms=evaluation.p95_ms if evaluation.stable else None,
        late_pct=100.0 * evaluation.late_fraction,
        accuracy_pct=evaluation.accuracy_pct,
        dynamic_j=evaluation.dynamic_j,
        idle_power_w=evaluation.idle_power_w,
        energy_j_per_request=evaluation.energy_j_per_request,
        objective=objective,
    )


def alternative(candidate: Candidate | FleetCandidate, chosen: messages.Prediction) -> messages.Alternative:
    """Write a candidate that was considered, and why what was chosen is better."""
    evaluation = candidate.evaluation
    p95_ms = evaluation.p95_ms if evaluation.stable else None
    return messages.Alternative(
        configuration=candidate.text,
        p95_ms=p95_ms,
        accuracy_pct=evaluation.accuracy_pct,
        energy_j_per_request=evaluation.energy_j_per_request,
        objective=candidate.objective,
        meets_sla=candidate.meets_sla,
        why=_why_beaten(candidate, chosen),
    )


def _why_beaten(candidate: Candidate | FleetCandidate, chosen: messages.Prediction) -> str:
    evaluation = candidate.evaluation
    if not evaluation.stable:
        return "cannot carry the load"
    if not candidate.meets_sla:
        return f"misses the SLA: {100.0 * evaluation.late_fraction:.1f} % late"
    energy_j = evaluation.energy_j_per_request - chosen.energy_j_per_request
    accuracy = evaluation.accuracy_pct - chosen.accuracy_pct
    told = f"{energy_j:+.2f} J per request, {accuracy:+.2f} points of accuracy"
    if candidate.objective > chosen.objective:
        return f"{told}: scores higher by itself, but is not worth a change of layout, or does not keep what was asked"
    return f"{told}: objective {chosen.objective - candidate.objective:.4f} lower"


def intensity_reading(intensity: CarbonIntensity, *, pue: float, published_at_ms: float) -> messages.IntensityReading:
    """Write an intensity."""
    return messages.IntensityReading(
        g_per_kwh=intensity.g_per_kwh,
        zone=intensity.zone,
        from_ms=intensity.from_s * 1e3,
        to_ms=intensity.to_s * 1e3,
        kind=intensity.kind,
        factor=intensity.factor,
        status=intensity.status,
        source=intensity.source,
        fallback_level=intensity.fallback_level,
        published_at_ms=published_at_ms,
        pue=pue,
        trace_index=intensity.trace_index,
        observed_to_ms=None if intensity.observed_to_s is None else intensity.observed_to_s * 1e3,
        fetched_at_ms=None if intensity.fetched_at_s is None else intensity.fetched_at_s * 1e3,
        stale=intensity.stale,
        note=intensity.note,
    )


def intensity_forecast(outlook: Outlook, *, zone: str, published_at_ms: float) -> messages.IntensityForecast:
    """Write what is expected of the grid."""
    return messages.IntensityForecast(
        basis=outlook.basis,
        source=outlook.source,
        zone=zone,
        published_at_ms=published_at_ms,
        issued_at_ms=None if outlook.issued_s is None else outlook.issued_s * 1e3,
        step_ms=outlook.step_s * 1e3,
        intervals=tuple(
            messages.ForecastInterval(
                from_ms=each.from_s * 1e3,
                g_per_kwh=each.g_per_kwh,
                low_g_per_kwh=each.low_g_per_kwh,
                high_g_per_kwh=each.high_g_per_kwh,
            )
            for each in outlook.intervals
        ),
    )


def read_target(
    target: messages.Target, mine: Collection[int], model: ServiceModel
) -> tuple[str, dict[int, GpuConfiguration]]:
    """Return what each GPU of a node shall be, by index, or in the first place why the target does not fit the node."""
    if {gpu.index for gpu in target.gpus} != set(mine):
        return f"GPUs {sorted(gpu.index for gpu in target.gpus)}: expected {sorted(mine)}", {}
    if target.application != model.application.name:
        return f"application {target.application!r}: expected {model.application.name!r}", {}
    try:
        wanted = {gpu.index: gpu_configuration(gpu) for gpu in target.gpus}
    except ValueError as error:
        return str(error), {}
    known = {variant.name for variant in model.application.variants}
    for kind in {kind for gpu in wanted.values() for kind in gpu.instances}:
        if kind.variant not in known or not model.fits(kind.variant, kind.profile):
            return f"variant {kind.variant!r} on {kind.profile!r}: unknown, or does not fit", {}
    return "", wanted
