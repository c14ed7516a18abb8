"""Which nodes and GPUs are there, as far as their telemetry tells. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from clover.core.configuration import GpuConfiguration, GpuId
from clover.core.control import ForeignSeen, GpuReport, LeavingSeen, NodeSeen, Say, TakenSeen, Tick
from clover.core.fencing import Fence, Fenced
from clover.core.holds import Holds

#: A node that has been silent for this many telemetry intervals, and at least this long, is lost.
SILENT_INTERVALS, SILENT_LEAST_S = 5.0, 5.0
#: A node that comes and goes: two times within the hour it is planned for at once, after that only when it has been
#: there for so long, twice as long each time, up to the most.
RETURNS_FREE, RETURN_FIRST_S, RETURN_MOST_S, RETURN_FORGET_S = 2, 30.0, 1800.0, 3600.0

#: Boot id of a node that a plan names and that has not been heard yet.
_NOT_HEARD = ""


@dataclass(slots=True, kw_only=True)
class _Node:
    boot_id: str
    interval_s: float
    seen_s: float
    gpus: Mapping[int, GpuReport]


@dataclass(slots=True)
class FleetView:
    """The fleet as it was last heard."""

    fence: Fence = field(default_factory=Fence)
    #: Nodes that people have taken by hand: as if they were not there.
    taken: frozenset[str] = frozenset()
    #: Nodes that no plan can be made for, and why.
    foreign: dict[str, str] = field(default_factory=dict[str, str])
    _returns: Holds[str] = field(
        default_factory=lambda: Holds[str](
            free=RETURNS_FREE, first_s=RETURN_FIRST_S, most_s=RETURN_MOST_S, forget_s=RETURN_FORGET_S
        )
    )
    _nodes: dict[str, _Node] = field(default_factory=dict[str, _Node])

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def heard(self) -> int:
        """How many nodes are there, those included that no plan can be made for: nobody waits for them any more."""
        return len(self._nodes.keys() | self.foreign.keys())

    @property
    def gpus(self) -> tuple[GpuId, ...]:
        """All GPUs of the nodes that are there, in order."""
        return tuple(sorted(GpuId(name, index) for name, node in self._nodes.items() for index in node.gpus))

    @property
    def fit(self) -> tuple[GpuId, ...]:
        """GPUs that plans are made with: all but those that are fenced off."""
        fenced = self.fence.fenced
        return tuple(gpu for gpu in self.gpus if gpu not in fenced)

    def joining(self, planned: Collection[GpuId], now_s: float) -> list[GpuId]:
        """Return the fit GPUs that are not planned for and whose node has not come and gone again and again."""
        return [gpu for gpu in self.fit if gpu not in planned and not self._returns.held(gpu.node, now_s)]

    def report(self, gpu: GpuId) -> GpuReport | None:
        """Return what was last heard of a GPU; None if its node is not there."""
        node = self._nodes.get(gpu.node)
        return node.gpus.get(gpu.index) if node else None

    def expect(self, gpus: Iterable[GpuId], now_s: float) -> None:
        """Count nodes of a plan that was taken over as there until they have been silent for as long as any other."""
        wanted = tuple(gpus)
        for name in {gpu.node for gpu in wanted}:
            silent = {gpu.index: GpuReport(phase="unknown", applied_epoch=0) for gpu in wanted if gpu.node == name}
            self._nodes[name] = _Node(boot_id=_NOT_HEARD, interval_s=1.0, seen_s=now_s, gpus=silent)

    def see(self, event: NodeSeen, now_s: float) -> list[Say]:
        """Take in a node's telemetry."""
        if event.node in self.taken:
            return []
        self.foreign.pop(event.node, None)
        known = self._nodes.get(event.node)
        self._nodes[event.node] = _Node(
            boot_id=event.boot_id, interval_s=event.interval_s, seen_s=now_s, gpus=event.gpus
        )
        for index, report in event.gpus.items():
            allowed_s = report.power_limit_s
            self.fence.see(GpuId(event.node, index), report.phase, report.reason, now_s, allowed_s=allowed_s)
        if known is None:
            hold_s = self._returns.again(event.node, now_s)
            told = f", planned for if it stays for {hold_s:.0f} s" if hold_s else ""
            return [Say(kind="node.joined", subject=event.node, reason=f"{len(event.gpus)} GPUs{told}")]
        if known.boot_id not in {event.boot_id, _NOT_HEARD}:
            return [Say(kind="node.restarted", subject=event.node, reason=f"boot {event.boot_id}")]
        return []

    def look_after(
        self, event: ForeignSeen | LeavingSeen | TakenSeen | Tick, now_s: float
    ) -> tuple[list[Say], list[str]]:
        """Take in what takes nodes away, or may; return what to say and the nodes that are gone."""
        match event:
            case ForeignSeen():
                return self.see_foreign(event), [event.node]
            case LeavingSeen():
                told = self.see_leaving(event)
                return told, [event.node] if told else []
            case TakenSeen():
                return self.take_by_hand(event.nodes)
            case Tick():
                told, lost = self.lose_silent(now_s)
                return [*told, *self.judge_health(now_s)], lost

    def see_leaving(self, event: LeavingSeen) -> list[Say]:
        """Forget a node that goes by itself; return what to say, once. Not one that came after it under its name."""
        known = self._nodes.get(event.node)
        if known is None or known.boot_id not in {event.boot_id, _NOT_HEARD}:
            return []
        self._forget(event.node)
        return [Say(kind="node.left", subject=event.node, reason=f"asked to stop, with {len(known.gpus)} GPUs")]

    def see_foreign(self, event: ForeignSeen) -> list[Say]:
        """Leave a node out that no plan can be made for; return what to say, once."""
        self._forget(event.node)
        if self.foreign.get(event.node) == event.reason:
            return []
        self.foreign[event.node] = event.reason
        return [Say(kind="node.refused", subject=event.node, reason=event.reason)]

    def lose_silent(self, now_s: float) -> tuple[list[Say], list[str]]:
        """Forget nodes that have been silent for too long; return what to say and their names."""
        told: list[Say] = []
        lost: list[str] = []
        for name, node in list(self._nodes.items()):
            silent_s = now_s - node.seen_s
            if silent_s > max(SILENT_LEAST_S, SILENT_INTERVALS * node.interval_s):
                self._forget(name)
                lost.append(name)
                told.append(Say(kind="node.lost", subject=name, reason=f"silent for {silent_s:.0f} s"))
        return told, lost

    def take_by_hand(self, nodes: frozenset[str]) -> tuple[list[Say], list[str]]:
        """Leave nodes alone as if they had gone; one that is given back joins anew.

        Returns:
            What to say, and the nodes that are gone now.
        """
        taken, released = sorted(nodes - self.taken), sorted(self.taken - nodes)
        self.taken = nodes
        for name in taken:
            self._forget(name)
        told = [Say(kind="node.taken", subject=name, reason="by hand: it is left alone") for name in taken]
        told += [Say(kind="node.released", subject=name, reason="it is planned for again") for name in released]
        return told, taken

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        self.fence.forget(GpuId(name, index) for index in (node.gpus if node else ()))

    def judge_health(self, now_s: float) -> list[Say]:
        """Fence off GPUs that are broken, let back those that are healthy again; return what to say."""
        return [said(change) for change in self.fence.judge(now_s, heard=len(self.gpus))]

    def serving(self, event: NodeSeen) -> dict[GpuId, GpuConfiguration]:
        """Return what the GPUs of a node say that they serve with, if it is ours to plan for."""
        if event.node in self.taken:
            return {}
        return {
            GpuId(event.node, index): report.configuration
            for index, report in event.gpus.items()
            if report.phase == "serving" and report.configuration is not None
        }


def said(change: Fenced) -> Say:
    """Write a change of the fence as an event."""
    kind = "gpu.returned" if change.back else "gpu.fenced"
    return Say(kind=kind, subject=str(change.gpu), reason=change.reason)
