"""The judge: reads a history and says which promises were broken, by which request or process, and how. Pure.

The promises are those of docs/operations/promises.md, P1 to P9. Each is one function over the same facts, so that runs
with real processes, runs in virtual time and planted violations are all judged alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from clover.core.outcome import LOST_AFTER_DEADLINE_S, ProducerOutcome
from clover.sim.faults import system_promises
from clover.sim.faults.facts import Facts, RequestStory
from clover.sim.faults.history import AnyRecord, Invoked
from clover.sim.faults.violation import Violation

#: A producer looks at its deadlines by a timer; how much later than due the timer of a busy machine may be.
TIMER_GRACE_MS = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker found.

    Attributes:
        violations: Broken promises, by promise.
        counts: Requests invoked and how they ended, replies that came twice, executions beyond the first, faults.
    """

    violations: tuple[Violation, ...]
    counts: dict[str, int]

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def __str__(self) -> str:
        """Return the counts and the first violations, one a line."""
        lines = [", ".join(f"{name} {number}" for name, number in sorted(self.counts.items()))]
        lines += [str(violation) for violation in self.violations[:20]]
        if len(self.violations) > 20:
            lines.append(f"... and {len(self.violations) - 20} more")
        return "\n".join(lines)


def check(records: Iterable[AnyRecord]) -> Verdict:
    """Judge a run by its history."""
    facts = Facts(records)
    rules: tuple[Callable[[Facts], Iterator[Violation]], ...] = (
        one_outcome,
        nothing_lost,
        in_time,
        nothing_dropped_silently,
        system_promises.bounded,
        system_promises.carbon_is_no_precondition,
        system_promises.controller_is_no_precondition,
        system_promises.one_controller_acts,
        system_promises.malformed_is_buried,
        system_promises.totals_grow,
    )
    found = [violation for rule in rules for violation in rule(facts)]
    return Verdict(violations=tuple(sorted(found, key=lambda one: one.promise)), counts=_counts(facts))


def _counts(facts: Facts) -> dict[str, int]:
    counts = Counter[str]()
    for story in facts.stories:
        counts["invoked"] += story.invoked is not None
        counts["acknowledged"] += story.acknowledged
        counts["duplicate_replies"] += max(0, story.seen_by("producer") - 1)
        counts["repeated_executions"] += max(0, len(story.finishes) - 1)
        for end in story.ends[:1]:
            counts[end.outcome.value] += 1
    counts["faults"] = len(facts.faults)
    for outcome in ProducerOutcome:
        counts.setdefault(outcome.value, 0)
    return dict(counts)


# --- requests


def one_outcome(facts: Facts) -> Iterator[Violation]:
    """P1: an acknowledged request gets exactly one recorded outcome, even if it is computed twice."""
    for story in facts.stories:
        if len(story.ends) > 1:
            yield Violation(
                "P1", story.id, f"ended {len(story.ends)} times: {[end.outcome.value for end in story.ends]}"
            )
        if story.invoked is None or not facts.excused(story.invoked):
            yield from _written_once(story)
    for story, request in facts.owned():
        if not story.ends and _is_over(facts, request):
            yield Violation("P1", story.id, "has no recorded outcome")
        for end in story.ends:
            if end.outcome.answered and not story.seen_by("producer"):
                yield Violation("P1", story.id, f"is recorded as {end.outcome.value}, but nobody replied")


def _written_once(story: RequestStory) -> Iterator[Violation]:
    first = sum(finish.first for finish in story.finishes)
    if first > 1:
        yield Violation("P1", story.id, f"the fence let {first} executions reply")
    for reader in ("producer", "observer"):
        if story.seen_by(reader) > 1:
            yield Violation("P1", story.id, f"the {reader} found {story.seen_by(reader)} replies")
    if story.refused and story.finishes:
        yield Violation("P1", story.id, "was refused at the door and executed all the same")


def _is_over(facts: Facts, request: Invoked) -> bool:
    last_ms = facts.records[-1].at_ms
    return facts.complete or last_ms > request.deadline_ms + LOST_AFTER_DEADLINE_S * 1e3 + TIMER_GRACE_MS


def nothing_lost(facts: Facts) -> Iterator[Violation]:
    """P2: what was acknowledged is answered as long as the server's data survives, whoever dies."""
    for story in facts.stories:
        request = story.invoked
        if request is None or facts.excused(request):
            continue
        if any(end.outcome is ProducerOutcome.LOST for end in story.ends):
            yield Violation("P2", story.id, f"was lost: {story.ends[0].reason}")
        elif story.given_up:
            yield Violation("P2", story.id, f"was given up without having been tried: {story.ends[0].reason}")
        elif story.acknowledged and facts.complete and facts.observed and not story.seen_by("observer"):
            yield Violation("P2", story.id, "was acknowledged and never replied to")


def in_time(facts: Facts) -> Iterator[Violation]:
    """P3: no request waits beyond its deadline + 2 s without an outcome."""
    for story, request in facts.owned():
        limit_ms = request.deadline_ms + LOST_AFTER_DEADLINE_S * 1e3 + TIMER_GRACE_MS
        for end in story.ends:
            if end.at_ms > limit_ms:
                late_s = (end.at_ms - request.deadline_ms) / 1e3
                yield Violation("P3", story.id, f"ended {late_s:.1f} s after its deadline")


def nothing_dropped_silently(facts: Facts) -> Iterator[Violation]:
    """P4 (second half): a request that is lost is recorded as lost together with the cause."""
    for story in facts.stories:
        for end in story.ends:
            if end.outcome is ProducerOutcome.LOST and not end.reason.partition(":")[2].strip():
                yield Violation("P4", story.id, f"was lost without a cause: {end.reason!r}")
