"""Keeps the promise when the model is wrong: escalates while too many requests are late, and steps back slowly. Pure.

P(late) is watched over a short and a long window, as alerts on error budgets are (Google, "The Site Reliability
Workbook", 2018, chapter 5): raised when the short one proves a breach by itself, or the long one does and the short
one shows that it goes on; lowered when all since the last step proves that the promise has been kept for a while, which
must last twice as long after each relapse. Plans run close to the promise, and lateness comes in bursts: what counts
as proof allows for that (`clover.core.lateness`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from clover.core.lateness import DesignEffect, Lateness, LateWindow

GuardLevel = Literal["none", "wake", "dispatch", "plan", "shed"]

#: In the order in which they are tried.
LEVELS: tuple[GuardLevel, ...] = ("none", "wake", "dispatch", "plan", "shed")

#: What each level does beside those before it, for people.
MEASURES: dict[GuardLevel, str] = {
    "none": "plans as asked",
    "wake": "wakes the parked GPUs",
    "dispatch": "hands requests to the fastest instances first",
    "plan": "plans for half as much load again",
    "shed": "refuses at the door what would be late",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """When the guard acts.

    Attributes:
        late_limit: Promised P(late).
        window_s, long_s: Lengths of the two windows.
        least_answered: Fewer answers in the short window say nothing.
        settle_s: After a step its effect is awaited for so long before the next one up.
        lower_s: So long below the limit before a step down, doubled with each relapse up to `lower_most_s`.
        stalled_slas: The first request in the stream is older than so many SLAs: requests are stuck.
        sla_ms: Promised 95th percentile.
    """

    sla_ms: float
    late_limit: float = 0.05
    window_s: float = 60.0
    long_s: float = 900.0
    least_answered: int = 100
    settle_s: float = 20.0
    lower_s: float = 120.0
    lower_most_s: float = 1800.0
    stalled_slas: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the guard saw and does.

    Attributes:
        level: In force from now on.
        raised: Whether it went up.
        late_pct, low_pct, high_pct: P(late) in the window and its one-sided 99 % bounds; None without answers.
        answered: In the window.
        reason: For people.
    """

    level: GuardLevel
    raised: bool
    late_pct: float | None
    low_pct: float | None
    high_pct: float | None
    answered: int
    reason: str


@dataclass(slots=True)
class SlaGuard:
    """Watches what becomes of requests.

    Attributes:
        settings: When it acts.
        level: In force.
    """

    settings: GuardSettings
    level: GuardLevel = "none"
    _short: LateWindow = field(init=False)
    _long: LateWindow = field(init=False)
    _bursts: DesignEffect = field(default_factory=DesignEffect)
    _moved_s: float = -math.inf
    _below_s: float | None = None
    _relapses: int = 0
    _lowered_s: float = -math.inf
    _stalled: int = 0
    _age_s: float = 0.0

    def __post_init__(self) -> None:
        self._short, self._long = LateWindow(self.settings.window_s), LateWindow(self.settings.long_s)

    def restore(self, level: GuardLevel, now_s: float) -> None:
        """Go on where another controller left off."""
        self.level, self._moved_s = level, now_s

    def observe(self, now_s: float, answered: int, late: int, oldest_wait_s: float, age_s: float = 0.0) -> None:
        """Take in how many requests were answered since the last call, how many late, and how long the first waits.

        Counts that are `age_s` old say nothing about a step that was taken since.
        """
        self._age_s = age_s
        if age_s > 0.0 and now_s - age_s < self._moved_s:
            answered = late = 0
        for window in (self._short, self._long, self._bursts):
            window.observe(now_s, answered, late)
        stuck = oldest_wait_s > self.settings.stalled_slas * self.settings.sla_ms / 1e3
        self._stalled = self._stalled + 1 if stuck else 0

    def judge(self, now_s: float, able: Collection[GuardLevel], *, busy: bool) -> Verdict | None:
        """Return a step up or down; None if all stays as it is.

        Args:
            now_s: When.
            able: Levels that would change anything.
            busy: A measure of the guard is still being put in force: no further step up before that is through.
        """
        if busy:
            self._moved_s = now_s
            self._forget()
        short, long = self._short.seen(self._bursts.value), self._long.seen(self._bursts.value)
        enough = short.answered >= self.settings.least_answered
        breach = self._breach(short, long) if enough else None
        if breach is not None or self._stalled >= 2:
            self._below_s = None
            return None if busy else self._raise(now_s, able, breach or short)
        if not self._kept(short, long, enough=enough):
            # Nothing is proven; idle hours, in which hardly a request comes, prove that nobody is late.
            self._below_s = self._below_s if not enough and not short.late else None
            if enough or short.late:
                return None
        self._below_s = now_s if self._below_s is None else self._below_s
        return self._lower(now_s, long)

    def _breach(self, short: Lateness, long: Lateness) -> Lateness | None:
        """Return the window that proves a breach which goes on."""
        limit = self.settings.late_limit
        if short.low > limit:
            return short
        return long if long.low > limit and short.share > limit else None

    def _kept(self, short: Lateness, long: Lateness, *, enough: bool) -> bool:
        """Return whether all that was seen since the last step proves that the promise is kept."""
        return enough and long.high <= self.settings.late_limit and short.share <= self.settings.late_limit

    def _forget(self) -> None:
        """Forget what was seen: it says nothing about what comes after a step."""
        self._short.clear()
        self._long.clear()

    def _raise(self, now_s: float, able: Collection[GuardLevel], seen: Lateness) -> Verdict | None:
        if now_s - self._moved_s < self.settings.settle_s + self._age_s:
            return None
        higher: tuple[GuardLevel, ...] = LEVELS[LEVELS.index(self.level) + 1 :]
        level: GuardLevel | None = next((each for each in higher if each in able), None)
        if level is None:
            return None
        self._relapses = self._relapses + 1 if now_s - self._lowered_s < 2.0 * self._hold_s() else 0
        return self._move(level, now_s, seen, raised=True)

    def _lower(self, now_s: float, seen: Lateness) -> Verdict | None:
        if self.level == "none" or self._below_s is None:
            return None
        if now_s - max(self._below_s, self._moved_s) < self._hold_s():
            return None
        self._lowered_s = now_s
        level: GuardLevel = LEVELS[LEVELS.index(self.level) - 1]
        return self._move(level, now_s, seen, raised=False)

    def _hold_s(self) -> float:
        return min(self.settings.lower_most_s, self.settings.lower_s * 2.0**self._relapses)

    def _move(self, level: GuardLevel, now_s: float, seen: Lateness, *, raised: bool) -> Verdict:
        reason = self._reason(level, seen, raised=raised)
        self.level, self._moved_s, self._below_s = level, now_s, None
        self._forget()
        self._stalled = 0
        known = seen.answered > 0
        return Verdict(
            level=level,
            raised=raised,
            late_pct=100.0 * seen.share if known else None,
            low_pct=100.0 * seen.low if known else None,
            high_pct=100.0 * seen.high if known else None,
            answered=seen.answered,
            reason=reason,
        )

    def _reason(self, level: GuardLevel, seen: Lateness, *, raised: bool) -> str:
        if raised and self._stalled >= 2:
            told = f"requests wait for more than {self.settings.stalled_slas:g} SLAs"
        elif seen.answered == 0:
            told = "nobody is late"
        else:
            told = f"{seen.late} of {seen.answered} requests late within {max(1.0, seen.window_s):.0f} s "
            told += f"(at least {100.0 * seen.low:.1f} %)" if raised else f"(at most {100.0 * seen.high:.1f} %)"
        return f"{told}: {self.level} -> {level}, {MEASURES[level]}"


def measures(*, parked: bool, planning: bool = False) -> tuple[GuardLevel, ...]:
    """Return the measures that would change something.

    Nothing is woken where nothing is parked or off. While a plan is being made (`planning`) there are those that need
    none: what comes after them would come no sooner.
    """
    able: tuple[GuardLevel, ...] = ("dispatch",) if planning else ("dispatch", "plan", "shed")
    return ("wake", *able) if parked else able
