"""Which GPUs change next, so that those that go on serving keep the promise. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from clover.core.configuration import Configuration, FleetCounts, GpuConfiguration, GpuId
from clover.core.control import Say, Send
from clover.core.fencing import Fenced, settled
from clover.core.fleet import FleetView

#: At most one in so many GPUs (at least one) changes at a time.
ROLL_FRACTION = 5
#: Predicted P(late) that a step must not exceed while its GPUs change.
ROLL_LATE_LIMIT = 0.05

#: A step whose GPUs have not reached its epoch after this long is given up: they are fenced off. What is switched off
#: or on by a command has the command's limit besides.
STEP_PATIENCE_S = 180.0

#: P(late), 0..1, of a fleet at a rate in requests/s.
Predict = Callable[[FleetCounts, float], float]

#: P(late) of a fleet at the present load, 0..1.
LateOf = Callable[[FleetCounts], float]


def never_late(fleet: FleetCounts, rate_rps: float) -> float:
    """Predict that nobody is ever late: then only the number of GPUs counts."""
    del fleet, rate_rps
    return 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """What changes next; `late` is the predicted P(late) meanwhile, None if nothing that serves stops."""

    gpus: tuple[GpuId, ...]
    late: float | None = None


def differing(assigned: Mapping[GpuId, GpuConfiguration], wanted: Mapping[GpuId, GpuConfiguration]) -> list[GpuId]:
    """Return the GPUs whose newest target is not what is wanted."""
    return [gpu for gpu, configuration in wanted.items() if assigned.get(gpu) != configuration]


def next_step(
    assigned: Mapping[GpuId, GpuConfiguration],
    wanted: Mapping[GpuId, GpuConfiguration],
    phases: Mapping[GpuId, str],
    late_of: LateOf,
    partly: Mapping[GpuId, GpuConfiguration] | None = None,
) -> Step:
    """Choose what changes next.

    GPUs that serve nobody change at once; what wakes serves before anything stops. Of those that serve, as many change
    as the rest can do without (predicted P(late) at most 5 %), never more than one in five of all, and at least one,
    since a roll must come to its end: then the one that is missed least. What is to serve in the end changes before
    anything is parked: afterwards few are left to do without it.

    Args:
        assigned: Newest targets.
        wanted: Where the roll leads.
        phases: Of the GPUs that were heard; what is not heard keeps its target, it may well be serving.
        late_of: Predicts P(late) of those that go on serving, at the present load.
        partly: What GPUs in other phases serve with all the same, such as those of which one worker has died.
    """
    rest = {gpu: assigned[gpu] for gpu, phase in phases.items() if phase == "serving" and gpu in assigned}
    rest |= partly or {}
    different = [gpu for gpu in differing(assigned, wanted) if gpu in phases]
    serving = [gpu for gpu in different if phases[gpu] == "serving" or gpu in rest]
    at_once = [gpu for gpu in different if gpu not in serving]
    waking = any(wanted[gpu].mode == "serving" and gpu in assigned for gpu in at_once)
    if waking or not serving:
        return Step(tuple(sorted(at_once)))
    staying = [gpu for gpu in serving if wanted[gpu].mode == "serving"]
    stopping, late = _stopping(staying or serving, rest, max(1, len(wanted) // ROLL_FRACTION), late_of)
    return Step(tuple(sorted([*at_once, *stopping])), late)


def _stopping(
    serving: Sequence[GpuId], rest: Mapping[GpuId, GpuConfiguration], most: int, late_of: LateOf
) -> tuple[list[GpuId], float]:
    """Return which of the serving GPUs stop, and P(late) without them."""

    def late_without(gpus: Sequence[GpuId]) -> float:
        left = {gpu: configuration for gpu, configuration in rest.items() if gpu not in gpus}
        fleet = Configuration.of(left).fleet
        return late_of(fleet) if fleet.instances else 1.0

    # By index before node, so that a step takes from all nodes rather than emptying one.
    ordered = sorted(serving, key=lambda gpu: (gpu.index, gpu.node))
    fits, late = 0, 1.0
    low, high = 1, min(most, len(ordered))
    while low <= high:
        middle = (low + high) // 2
        found = late_without(ordered[:middle])
        if found <= ROLL_LATE_LIMIT:
            fits, late, low = middle, found, middle + 1
        else:
            high = middle - 1
    if fits:
        return ordered[:fits], late
    first_alike = {rest.get(gpu): gpu for gpu in reversed(ordered)}
    found = {gpu: late_without([gpu]) for gpu in first_alike.values()}
    gpu = min(found, key=lambda each: (found[each], each.index, each.node))
    return [gpu], found[gpu]


@dataclass(slots=True)
class Roll:
    """The way from what the targets say to what is wanted, step by step.

    Attributes:
        assigned: What the newest targets say of each GPU, those that are fenced off included.
        wanted: Where the roll leads, without those.
        gpus: What the present step moves.
        epoch: Under which its targets were written; None until they are.
        since_s: When it began.
        total: GPUs that the roll changes in all.
        restored: GPUs that failed to change and get back in the next targets what they were before.
    """

    assigned: dict[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])
    wanted: dict[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])
    gpus: tuple[GpuId, ...] = ()
    epoch: int | None = None
    since_s: float = 0.0
    total: int = 0
    restored: tuple[GpuId, ...] = ()
    #: What the GPUs of the present step were before it, if they served.
    _before: dict[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])

    @property
    def left(self) -> list[GpuId]:
        """GPUs that are still to change."""
        return differing(self.assigned, self.wanted)

    def assigned_of(self, gpus: Sequence[GpuId]) -> dict[GpuId, GpuConfiguration]:
        """Return what the targets say of some GPUs."""
        return {gpu: self.assigned[gpu] for gpu in gpus if gpu in self.assigned}

    def forget(self, nodes: Sequence[str]) -> None:
        """Forget what the targets of nodes say that are gone."""
        self.assigned = {gpu: what for gpu, what in self.assigned.items() if gpu.node not in nodes}

    def begin(self, wanted: Mapping[GpuId, GpuConfiguration]) -> None:
        """Set where to go."""
        self.wanted = dict(wanted)
        self.gpus, self.epoch, self.total = (), None, len(self.left)

    def resume(
        self,
        assigned: Mapping[GpuId, GpuConfiguration],
        wanted: Mapping[GpuId, GpuConfiguration],
        *,
        epoch: int,
        now_s: float,
        before: Mapping[GpuId, GpuConfiguration] | None = None,
    ) -> None:
        """Go on with what another controller began; `before` is what its present step has replaced."""
        self._before = dict(before or {})
        self.assigned, self.wanted = dict(assigned), dict(wanted)
        self.gpus = tuple(gpu for gpu in assigned if gpu in wanted)
        self.epoch, self.since_s, self.total = epoch, now_s, len(self.left)

    def step(self, fleet: FleetView, late_of: LateOf, now_s: float) -> Send:
        """Begin the next step; return the targets that it needs."""
        reports = {gpu: report for gpu in fleet.fit if (report := fleet.report(gpu)) is not None}
        phases = {gpu: report.phase for gpu, report in reports.items()}
        partly = {gpu: live for gpu, report in reports.items() if (live := report.live) and report.phase != "serving"}
        step = next_step(self.assigned, self.wanted, phases, late_of, partly)
        self._before = {gpu: now for gpu, now in self.assigned_of(step.gpus).items() if now.instances}
        self.restored = ()
        self.assigned |= {gpu: self.wanted[gpu] for gpu in step.gpus}
        # What a roll before this one left under a power command is waited for with this one.
        self.gpus, self.epoch, self.since_s = tuple(sorted({*step.gpus, *_powered(fleet)})), None, now_s
        left = len(self.left)
        self.total = max(self.total, left)
        return Send(
            configuration=Configuration.of(self.assigned),
            changed=step.gpus,
            last=not left,
            done=self.total - left,
            total=self.total,
            fenced=tuple(sorted(fleet.fence.fenced & set(self.assigned))),
            late_pct=None if step.late is None else 100.0 * step.late,
            before=dict(self._before),
        )

    def take_back(self, gpus: Collection[GpuId]) -> list[Say]:
        """Let GPUs that failed to change in this step be what they were before it; say so.

        Not those that served nobody: a GPU that could not be woken has nothing to lose.
        """
        back = {gpu: before for gpu, before in sorted(self._before.items()) if gpu in gpus}
        self.assigned |= back
        self.restored = tuple(back)
        return [
            Say(kind="gpu.rolled_back", subject=str(gpu), reason=f"it failed to change: back to {before}")
            for gpu, before in back.items()
        ]

    def before(self, gpu: GpuId) -> GpuConfiguration | None:
        """Return what a GPU of the present step served with before it; None if it served nobody."""
        return self._before.get(gpu)

    def give_up(self, fleet: FleetView, now_s: float) -> list[Fenced]:
        """Fence off GPUs that have not done for too long what the step says, so that they hold nobody up.

        Not the last one that is fit: `clover.core.ending` says what becomes of that.
        """
        return [
            fleet.fence.refuse(gpu, why)
            for gpu in self.open(fleet)
            if len(fleet.fit) > 1 and (why := self.overdue(fleet, gpu, now_s))
        ]

    def overdue(self, fleet: FleetView, gpu: GpuId, now_s: float) -> str:
        """Return why a GPU of the step is waited for no longer; empty if it is."""
        waited_s, report = now_s - self.since_s, fleet.report(gpu)
        if report is None or waited_s <= STEP_PATIENCE_S + report.power_limit_s:
            return ""
        return f"epoch {self.epoch} not reached after {waited_s:.0f} s: {report.reason or report.phase}"

    def open(self, fleet: FleetView) -> list[GpuId]:
        """Return the GPUs of the step that are there, not fenced off, and have not reached their target."""
        there = [gpu for gpu in self.gpus if gpu not in fleet.fence.fenced and fleet.report(gpu) is not None]
        return [gpu for gpu in there if not self._reached(fleet, gpu)]

    def only_powered(self, fleet: FleetView) -> bool:
        """Return whether the step waits for power commands alone, in which nothing that serves stops."""
        open_ = self.open(fleet)
        return bool(open_) and set(open_) <= set(_powered(fleet))

    def _reached(self, fleet: FleetView, gpu: GpuId) -> bool:
        report = fleet.report(gpu)
        return report is not None and report.applied_epoch >= (self.epoch or 0) and settled(report.phase)


def _powered(fleet: FleetView) -> list[GpuId]:
    """Return the GPUs that a command switches off or on just now."""
    return [gpu for gpu in fleet.fit if (report := fleet.report(gpu)) is not None and report.power_limit_s]
