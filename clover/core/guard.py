"""Keeps the promise when the model is wrong: escalates while too many requests are late, and steps back slowly. Pure.

P(late) over a sliding window comes with Wilson's confidence interval (E. B. Wilson, "Probable inference", JASA 22,
1927). Raised when its lower bound is above the limit, lowered when its upper bound has been below for a while; that
takes twice as long after each relapse.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

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
        window_s: Length of the sliding window.
        least_answered: Fewer answers in the window say nothing.
        settle_s: After a step its effect is awaited for so long before the next one up.
        lower_s: So long below the limit before a step down, doubled with each relapse up to `lower_most_s`.
        stalled_slas: The first request in the stream is older than so many SLAs: requests are stuck.
        sla_ms: Promised 95th percentile.
    """

    sla_ms: float
    late_limit: float = 0.05
    window_s: float = 60.0
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


#: One-sided 99 %.
_Z = 2.326


def wilson(late: int, answered: int) -> tuple[float, float]:
    """Return the one-sided 99 % lower and upper bounds of P(late)."""
    if answered == 0:
        return 0.0, 1.0
    p, z2 = late / answered, _Z * _Z
    centre = p + z2 / (2 * answered)
    half = _Z * math.sqrt(p * (1.0 - p) / answered + z2 / (4.0 * answered * answered))
    scale = 1.0 + z2 / answered
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(slots=True)
class SlaGuard:
    """Watches what becomes of requests.

    Attributes:
        settings: When it acts.
        level: In force.
    """

    settings: GuardSettings
    level: GuardLevel = "none"
    _window: deque[tuple[float, int, int]] = field(default_factory=deque[tuple[float, int, int]])
    _moved_s: float = -math.inf
    _below_s: float | None = None
    _relapses: int = 0
    _lowered_s: float = -math.inf
    _stalled: int = 0

    def restore(self, level: GuardLevel, now_s: float) -> None:
        """Go on where another controller left off."""
        self.level, self._moved_s = level, now_s

    def observe(self, now_s: float, answered: int, late: int, oldest_wait_s: float) -> None:
        """Take in how many requests were answered since the last call, how many late, and how long the first waits."""
        if answered:
            self._window.append((now_s, answered, late))
        while self._window and now_s - self._window[0][0] > self.settings.window_s:
            self._window.popleft()
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
            self._window.clear()
        answered = sum(count for _, count, _ in self._window)
        late = sum(count for _, _, count in self._window)
        low, high = wilson(late, answered)
        enough = answered >= self.settings.least_answered
        stalled = self._stalled >= 2
        limit = self.settings.late_limit
        if (enough and low > limit) or stalled:
            self._below_s = None
            return None if busy else self._raise(now_s, able, answered, late)
        if not (enough and high <= limit):
            # Nothing is proven; idle hours, in which hardly a request comes, prove that nobody is late.
            self._below_s = self._below_s if not enough and late == 0 else None
            if enough or late:
                return None
        self._below_s = now_s if self._below_s is None else self._below_s
        return self._lower(now_s, answered, late)

    def _raise(self, now_s: float, able: Collection[GuardLevel], answered: int, late: int) -> Verdict | None:
        if now_s - self._moved_s < self.settings.settle_s:
            return None
        higher: tuple[GuardLevel, ...] = LEVELS[LEVELS.index(self.level) + 1 :]
        level: GuardLevel | None = next((each for each in higher if each in able), None)
        if level is None:
            return None
        if now_s - self._lowered_s < 2.0 * self._hold_s():
            self._relapses += 1
        return self._move(level, now_s, answered, late, raised=True)

    def _lower(self, now_s: float, answered: int, late: int) -> Verdict | None:
        if self.level == "none" or self._below_s is None:
            return None
        if now_s - max(self._below_s, self._moved_s) < self._hold_s():
            return None
        self._lowered_s = now_s
        level: GuardLevel = LEVELS[LEVELS.index(self.level) - 1]
        return self._move(level, now_s, answered, late, raised=False)

    def _hold_s(self) -> float:
        return min(self.settings.lower_most_s, self.settings.lower_s * 2.0**self._relapses)

    def _move(self, level: GuardLevel, now_s: float, answered: int, late: int, *, raised: bool) -> Verdict:
        reason = self._reason(level, answered, late, raised=raised)
        low, high = wilson(late, answered)
        self.level, self._moved_s, self._below_s = level, now_s, None
        # What was seen before says nothing about what comes after.
        self._window.clear()
        self._stalled = 0
        known = answered > 0
        return Verdict(
            level=level,
            raised=raised,
            late_pct=100.0 * late / answered if known else None,
            low_pct=100.0 * low if known else None,
            high_pct=100.0 * high if known else None,
            answered=answered,
            reason=reason,
        )

    def _reason(self, level: GuardLevel, answered: int, late: int, *, raised: bool) -> str:
        low, high = wilson(late, answered)
        if raised and self._stalled >= 2:
            seen = f"requests wait for more than {self.settings.stalled_slas:g} SLAs"
        elif answered == 0:
            seen = "nobody is late"
        else:
            seen = f"{late} of {answered} requests late within {self.settings.window_s:.0f} s "
            seen += f"(at least {100.0 * low:.1f} %)" if raised else f"(at most {100.0 * high:.1f} %)"
        return f"{seen}: {self.level} -> {level}, {MEASURES[level]}"


def measures(*, parked: bool) -> tuple[GuardLevel, ...]:
    """Return the measures that would change something; nothing is woken where nothing is parked or off."""
    return ("wake", "dispatch", "plan", "shed") if parked else ("dispatch", "plan", "shed")
