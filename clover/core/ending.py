"""Why a roll ends before all of it is through, and what becomes of the last GPU if that fails. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clover.core.configuration import GpuConfiguration, GpuId
from clover.core.control import Say, Trigger
from clover.core.fencing import HEALTHY_FIRST_S, HEALTHY_MOST_S
from clover.core.fleet import FleetView
from clover.core.holds import Holds
from clover.core.news import News
from clover.core.rolling import Roll


@dataclass(frozen=True, slots=True)
class Ending:
    """A roll ends and the plan is made anew.

    Attributes:
        trigger, reason: Of the decision that follows.
        failed: GPUs that go back to what they were before the step.
        last: The only GPU that was fit, if it has failed to change.
    """

    trigger: Trigger
    reason: str
    failed: frozenset[GpuId]
    last: GpuId | None = None


def ending(roll: Roll, fleet: FleetView, news: News, now_s: float) -> Ending | None:
    """Return why a roll must not go on; None if it may.

    Once a step is through, or waits for power commands alone, a raised guard ends the roll, and so does a GPU that was
    fenced off. While all that the step still waits for is in failure, the guard and people end it too: nothing is under
    way that they would disturb. The last GPU that is fit is not fenced off, for there would be nothing left to plan
    with: where another one would be, the roll ends.
    """
    fenced = fleet.fence.fenced
    open_ = roll.open(fleet)
    if not open_ or roll.only_powered(fleet):
        if (urgent := news.ends_roll()) is not None:
            return Ending(*urgent, fenced)
        if (gone := fenced & set(roll.wanted)) and fleet.fit:
            return Ending("fleet", f"fenced off: {', '.join(str(gpu) for gpu in sorted(gone))}", fenced)
    if not open_:
        return None
    failed = fenced | set(open_)
    hangs = all(report.phase == "failed" for gpu in open_ if (report := fleet.report(gpu)) is not None)
    if hangs and (urgent := news.ends_hanging()) is not None:
        return Ending(*urgent, failed)
    if len(fleet.fit) > 1:
        return None
    (last,) = open_
    why = roll.overdue(fleet, last, now_s) or fleet.fence.spent(last, now_s)
    return Ending("fleet", f"{last}, the last GPU that is fit: {why}", failed, last) if why else None


@dataclass(slots=True)
class HeldBack:
    """The last GPUs that failed to change: each stays what it was for a while, twice as long with each failure."""

    _holds: Holds[GpuId] = field(
        default_factory=lambda: Holds[GpuId](
            first_s=HEALTHY_FIRST_S, most_s=HEALTHY_MOST_S, forget_s=2.0 * HEALTHY_MOST_S
        )
    )
    _as: dict[GpuId, GpuConfiguration] = field(default_factory=dict[GpuId, GpuConfiguration])

    def hold(self, gpu: GpuId, before: GpuConfiguration, now_s: float) -> float:
        """Hold a GPU to what it was; return for how long."""
        self._as[gpu] = before
        return self._holds.again(gpu, now_s)

    def now(self) -> Mapping[GpuId, GpuConfiguration]:
        """Return what is held to what."""
        return self._as

    def release(self, now_s: float) -> list[GpuId]:
        """Let go what was held for long enough; return it."""
        over = [gpu for gpu in self._as if not self._holds.held(gpu, now_s)]
        for gpu in over:
            del self._as[gpu]
        return over


def end(roll: Roll, fleet: FleetView, why: Ending, held: HeldBack, now_s: float) -> tuple[str, list[Say]]:
    """End a roll: what failed gets back in the next targets what it was before.

    Returns:
        The reason of the decision that follows, and what to say.
    """
    reason, before = why.reason, roll.before(why.last) if why.last is not None else None
    if why.last is not None and before is not None:
        reason += f"; it stays what it was for {held.hold(why.last, before, now_s):.0f} s"
    to_change = len(roll.left) + len(roll.open(fleet))
    told = f"{to_change} of {roll.total} GPUs were still to change: {reason}"
    return reason, [Say(kind="plan.aborted", subject=f"epoch {roll.epoch}", reason=told), *roll.take_back(why.failed)]
