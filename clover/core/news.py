"""What has come up since the last decision and asks for another one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from clover.core.control import OverrideSeen, PlanReady, Say, Trigger
from clover.core.guard import Verdict


@dataclass(slots=True)
class News:
    """Reasons for a decision, one line each; empty if there is none.

    Attributes:
        override: People want something else.
        under_way: Whether the roll that is under way leads there: it need not end for it.
        drift: The table in use was changed.
        guard: The SLA guard took a step.
        raised: Whether its last step was upwards.
        ready: A plan that took too long is there.
    """

    override: str = ""
    drift: str = ""
    guard: str = ""
    raised: bool = False
    ready: PlanReady | None = None
    under_way: bool = False

    def decided(self) -> None:
        """Forget what a decision has answered."""
        self.override = self.drift = self.guard = ""
        self.ready = None

    def see_pins(self, event: OverrideSeen, *, under_way: bool) -> None:
        """Take in that other GPUs are pinned than before, or than this controller knew."""
        self.override, self.under_way = event.reason or "nothing is pinned any more", under_way

    def see_guard(self, verdict: Verdict) -> Say:
        """Take in a step of the guard; return what is to be said of it."""
        self.guard, self.raised = verdict.reason, verdict.raised
        kind = "guard.raised" if verdict.raised else "guard.lowered"
        return Say(kind=kind, subject=verdict.level, reason=verdict.reason, verdict=verdict)

    def at_once(self) -> tuple[Trigger, str] | None:
        """Return what no pace holds back, the most urgent first."""
        if self.guard:
            return "sla", self.guard
        return None if self.ready is None else (self.ready.trigger, self.ready.reason)

    def ends_hanging(self) -> tuple[Trigger, str] | None:
        """Return what ends a step that waits for nothing but GPUs in failure."""
        urgent = self.ends_roll()
        return ("override", self.override) if urgent is None and self.override and not self.under_way else urgent

    def ends_roll(self) -> tuple[Trigger, str] | None:
        """Return what does not wait until a roll has come to its end."""
        return ("sla", self.guard) if self.guard and self.raised else None
