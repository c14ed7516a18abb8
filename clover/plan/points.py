"""Points of a frontier: what the GPUs are, how requests are handed out, and how that does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clover.core.configuration import (
    OFF,
    PARKED,
    Configuration,
    ConfigurationGraph,
    FleetCounts,
    GpuConfiguration,
    GpuId,
    InstanceKind,
)
from clover.core.dispatch import DispatchRule, RuleName
from clover.core.queueing import Evaluation

#: A layout: configurations of GPUs with their numbers, without saying which GPU is which.
Layout = tuple[tuple[GpuConfiguration, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleetwide:
    """A dispatch rule for the whole fleet; `shares` are of all requests and are split over the nodes."""

    name: RuleName = "longest_idle"
    shares: Mapping[InstanceKind, float] = field(default_factory=dict[InstanceKind, float])

    @property
    def key(self) -> tuple[object, ...]:
        """Tells rules apart; shares that nobody could tell apart are the same."""
        return (self.name, *sorted((str(kind), round(share, 9)) for kind, share in self.shares.items()))

    def by_node(self, configuration: Configuration) -> dict[str, DispatchRule]:
        """Return each serving node's rule.

        An instance of a kind is worth the same wherever it stands, so a node's shares are in proportion to the fleet's
        share of each of its kinds and to how many of its instances the node has.
        """
        counts = Counter(kind for _, gpu in configuration.gpus for kind in gpu.instances)
        nodes: dict[str, Counter[InstanceKind]] = {}
        for gpu_id, gpu in configuration.gpus:
            if gpu.instances:
                nodes.setdefault(gpu_id.node, Counter()).update(gpu.instances)
        if self.name != "shares":
            return {node: DispatchRule(name=self.name) for node in nodes}
        return {node: self._node_rule(own, counts) for node, own in nodes.items()}

    def _node_rule(self, own: Mapping[InstanceKind, int], counts: Mapping[InstanceKind, int]) -> DispatchRule:
        parts = {kind: self.shares.get(kind, 0.0) * n / counts[kind] for kind, n in own.items()}
        total = sum(parts.values())
        if total <= 0.0:
            # None of this node's kinds is wanted: it takes what the others leave, all of its kinds alike.
            return DispatchRule(weight=0.0)
        shares = {kind: part / total for kind, part in parts.items()}
        return DispatchRule(name="shares", shares=shares, weight=min(1.0, total))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPoint:
    """A plan without the names of the GPUs.

    Attributes:
        layout: What the GPUs are.
        dispatch: How requests are handed out.
        evaluation: How it does; closed form under longest-idle, otherwise simulated.
        late_upper: Certified upper bound of P(latency > SLA), None while not certified.
    """

    layout: Layout
    dispatch: Fleetwide
    evaluation: Evaluation
    late_upper: float | None = None

    @property
    def active(self) -> int:
        """Number of GPUs that serve."""
        return sum(n for gpu, n in self.layout if gpu.mode == "serving")

    def __str__(self) -> str:
        return ", ".join(f"{n} x [{gpu}]" for gpu, n in self.layout)


def layout_of(gpus: Iterable[GpuConfiguration]) -> Layout:
    """Count configurations, in a canonical order."""
    return tuple(sorted(Counter(gpus).items(), key=lambda item: (item[0].mode != "serving", str(item[0]))))


def fleet_of(layout: Layout) -> FleetCounts:
    """Return what performance depends on."""
    kinds: Counter[InstanceKind] = Counter()
    for gpu, n in layout:
        for kind in gpu.instances:
            kinds[kind] += n
    modes = Counter({"serving": 0})
    for gpu, n in layout:
        modes[gpu.mode] += n
    return FleetCounts(
        kinds=tuple(sorted(kinds.items())), active=modes["serving"], parked=modes["parked"], off=modes["off"]
    )


def fill(
    multisets: Sequence[tuple[str, ...]],
    gpus: Sequence[int],
    counts: Mapping[InstanceKind, int],
    *,
    spare: int,
    spare_off: bool = False,
) -> Layout:
    """Put instances into partitions so that few configurations differ.

    Args:
        multisets: Partitions.
        gpus: How many GPUs have each of them.
        counts: Instances by kind; they fill the partitions exactly.
        spare: GPUs that do not serve.
        spare_off: Whether these are off rather than parked.

    Raises:
        ValueError: The instances do not fill the partitions.
    """
    queues: dict[str, list[InstanceKind]] = {}
    for kind, n in sorted(counts.items()):
        queues.setdefault(kind.profile, []).extend([kind] * n)
    made: list[GpuConfiguration] = []
    for multiset, n in zip(multisets, gpus, strict=True):
        for _ in range(n):
            if any(multiset.count(size) > len(queues.get(size, ())) for size in set(multiset)):
                raise ValueError(f"instances {dict(counts)} do not fill the partitions: expected one for every place")
            made.append(GpuConfiguration(tuple(queues[size].pop(0) for size in multiset)))
    if any(queues.values()):
        raise ValueError(f"instances {dict(counts)} are more than the partitions have places")
    return layout_of([*made, *([OFF if spare_off else PARKED] * spare)])


def assign(layout: Layout, ids: Sequence[GpuId], present: Configuration | None = None) -> Configuration:
    """Give every GPU its configuration.

    The nodes get equal parts of every configuration, whatever the present is, so that what a certificate says of the
    nodes stays true; inside a node the GPUs are matched so that few instances change.
    """
    shares = _per_node(layout, ids)
    now = present.as_dict() if present else {}
    chosen: dict[GpuId, GpuConfiguration] = {}
    for node, wanted in shares.items():
        chosen |= _match([gpu_id for gpu_id in sorted(ids) if gpu_id.node == node], wanted, now)
    return Configuration.of(chosen)


def _per_node(layout: Layout, ids: Sequence[GpuId]) -> dict[str, list[GpuConfiguration]]:
    sizes = Counter(gpu_id.node for gpu_id in ids)
    shares: dict[str, list[GpuConfiguration]] = {node: [] for node in sorted(sizes)}
    for gpu, n in layout:
        for _ in range(n):
            # The node that is filled least, in proportion; by name among equals.
            node = min(shares, key=lambda name: (len(shares[name]) / sizes[name], name))
            shares[node].append(gpu)
    return shares


def _match(
    ids: Sequence[GpuId], wanted: Sequence[GpuConfiguration], now: Mapping[GpuId, GpuConfiguration]
) -> dict[GpuId, GpuConfiguration]:
    left = Counter(wanted)
    chosen: dict[GpuId, GpuConfiguration] = {}
    _keep([gpu_id for gpu_id in ids if now.get(gpu_id, PARKED).mode == "serving"], left, now, chosen)
    # What is new begins on GPUs that serve nobody, so that nothing has to stop before it is there.
    spare = [gpu_id for gpu_id in ids if gpu_id in now and now[gpu_id].mode != "serving"]
    fresh = sorted((gpu for gpu, n in left.items() for _ in range(n) if gpu.mode == "serving"), key=str)
    for gpu_id, gpu in zip(spare, fresh, strict=False):
        chosen[gpu_id] = gpu
        left[gpu] -= 1
    _keep([gpu_id for gpu_id in ids if gpu_id not in chosen], left, now, chosen)
    for gpu_id in ids:
        if gpu_id not in chosen:
            present = now.get(gpu_id)
            best = min((g for g, n in left.items() if n > 0), key=lambda g: (_instances_changed(present, g), str(g)))
            chosen[gpu_id] = best
            left[best] -= 1
    return chosen


def _keep(
    ids: Sequence[GpuId],
    left: Counter[GpuConfiguration],
    now: Mapping[GpuId, GpuConfiguration],
    chosen: dict[GpuId, GpuConfiguration],
) -> None:
    """Leave GPUs what they are as long as that is wanted."""
    for gpu_id in ids:
        present = now.get(gpu_id)
        if present is not None and left[present] > 0:
            chosen[gpu_id] = present
            left[present] -= 1


def _instances_changed(present: GpuConfiguration | None, wanted: GpuConfiguration) -> int:
    if present is None:
        return len(wanted.instances)
    same = ConfigurationGraph.of(present.instances).distance(ConfigurationGraph.of(wanted.instances))
    sizes = Counter(present.multiset)
    sizes.subtract(wanted.multiset)
    # A new partition costs the instance and the worker, another variant only the worker.
    return same + 2 * sum(abs(n) for n in sizes.values())
