"""What makes the controller decide anew, and how often it may: thresholds, cool-down, a budget of plans. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from clover.core.carbon import REFERENCE_INTENSITY_G_PER_KWH, REFERENCE_PUE
from clover.core.control import Trigger
from clover.core.load import LoadEstimate, exceeds, rate_to_plan, undercuts

#: Intensity x PUE must move by more than this part of the reference to cause a decision (SC'23, section 5).
INTENSITY_TRIGGER = 0.05 * REFERENCE_INTENSITY_G_PER_KWH * REFERENCE_PUE

#: A plan that takes longer than this, in s, is not waited for with nothing else done; one for a change of the grid is
#: bridged by what is certified already.
AT_ONCE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceSettings:
    """How often the controller may decide.

    The grid is not held back: its figures come in intervals, and most of its changes are look-ups. Neither are the
    guard, which has holds of its own, people, and GPUs that are gone: a plan with them is wrong. What comes and goes is
    held back when it comes (`clover.core.fleet`).

    Attributes:
        cooldown_s: After a decision nothing but more load, another fleet, the guard or people cause one for so long.
        lower_after_s: Less load must have lasted for so long.
        join_cooldown_s: After a decision on GPUs that joined the next one on such waits for so long.
        plans_per_hour: Decisions on load and drift within any hour.
    """

    cooldown_s: float = 60.0
    lower_after_s: float = 120.0
    join_cooldown_s: float = 30.0
    plans_per_hour: int = 20


@dataclass(slots=True)
class Pace:
    """Counts decisions."""

    settings: PaceSettings
    _decided_s: float = float("-inf")
    _joined_s: float = float("-inf")
    _counted: deque[float] = field(default_factory=deque[float])

    def decided(self, trigger: Trigger, now_s: float) -> None:
        """Take note of a decision."""
        self._decided_s = now_s
        if trigger in {"load", "drift"}:
            self._counted.append(now_s)

    def joined(self, now_s: float) -> None:
        """Take note of a decision that nothing but GPUs that joined have caused."""
        self._joined_s = now_s

    def allows(self, trigger: Trigger, now_s: float, *, urgent: bool = False) -> bool:
        """Return whether a decision may be taken now; `urgent` ones need not wait for a cool-down."""
        if trigger in {"start", "sla", "override", "intensity"}:
            return True
        if trigger == "fleet":
            return urgent or now_s - self._joined_s >= self.settings.join_cooldown_s
        while self._counted and now_s - self._counted[0] >= 3600.0:
            self._counted.popleft()
        cool = urgent or now_s - self._decided_s >= self.settings.cooldown_s
        return cool and len(self._counted) < self.settings.plans_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A trigger; `rate_rps` is the load to plan for from now on."""

    trigger: Trigger
    reason: str
    rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What triggers are judged by.

    Attributes:
        joined, left: GPUs that the plan does not have, and that it has without their being fit.
        effective, decided_effective: Intensity x PUE now and at the last decision.
        load, planned_rps: Load now, and that is planned for.
        drift, override: Reasons to decide, empty if there is none.
    """

    joined: int
    left: int
    effective: float | None
    decided_effective: float
    load: LoadEstimate | None
    planned_rps: float
    drift: str = ""
    override: str = ""


@dataclass(slots=True)
class Triggers:
    """Judges situations; remembers how often it said yes and since when the load is low."""

    pace: Pace
    _low_since_s: float | None = None

    def judge(self, now: Situation, now_s: float) -> Found | None:
        """Return the most urgent trigger that the pace allows, None if there is none."""
        for found, urgent in (self._override(now), self._fleet(now), self._load(now, now_s), self._drift(now)):
            if found is not None and self.pace.allows(found.trigger, now_s, urgent=urgent):
                if found.trigger == "fleet" and not urgent:
                    self.pace.joined(now_s)
                return found
        return self._intensity(now)

    def _override(self, now: Situation) -> tuple[Found | None, bool]:
        found = Found(trigger="override", reason=now.override, rate_rps=now.planned_rps) if now.override else None
        return found, True

    def _fleet(self, now: Situation) -> tuple[Found | None, bool]:
        if not (now.joined or now.left):
            return None, False
        reason = f"{now.joined} GPUs joined, {now.left} left"
        return Found(trigger="fleet", reason=reason, rate_rps=now.planned_rps), bool(now.left)

    def _load(self, now: Situation, now_s: float) -> tuple[Found | None, bool]:
        load, planned = now.load, now.planned_rps
        if load is None:
            return None, False
        if exceeds(load, planned):
            self._low_since_s = None
            ahead = f", {load.ahead_rps:.3g} ahead" if load.ahead_rps > load.high_rps else ""
            return self._to(load, f"load went from {planned:.3g} to {load.rate_rps:.3g} requests/s{ahead}"), True
        if not undercuts(load, planned):
            self._low_since_s = None
            return None, False
        self._low_since_s = now_s if self._low_since_s is None else self._low_since_s
        if now_s - self._low_since_s < self.pace.settings.lower_after_s:
            return None, False
        return self._to(load, f"load went from {planned:.3g} to {load.rate_rps:.3g} requests/s"), False

    def _to(self, load: LoadEstimate, reason: str) -> Found:
        rate = rate_to_plan(load)
        return Found(trigger="load", reason=f"{reason}; planned for {rate:.3g}", rate_rps=rate)

    def _drift(self, now: Situation) -> tuple[Found | None, bool]:
        return (Found(trigger="drift", reason=now.drift, rate_rps=now.planned_rps) if now.drift else None), False

    def _intensity(self, now: Situation) -> Found | None:
        effective = now.effective
        if effective is None or abs(effective - now.decided_effective) <= INTENSITY_TRIGGER:
            return None
        reason = f"intensity x PUE went from {now.decided_effective:.0f} to {effective:.0f} g/kWh"
        return Found(trigger="intensity", reason=reason, rate_rps=now.planned_rps)
