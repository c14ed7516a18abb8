"""Promises about the system as a whole: bounds, carbon data, controllers, malformed messages, totals. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from clover.sim.faults.facts import Facts
from clover.sim.faults.history import (
    Acted,
    Applied,
    Buried,
    CarbonSeen,
    LeaseTaken,
    Planted,
    ProcessEnded,
    Sample,
    TotalsSeen,
)
from clover.sim.faults.violation import Violation

#: Memory is flat if the median of the last third of the samples is at most this much above that of the middle third.
_MEMORY_FACTOR, _MEMORY_BYTES = 1.1, 16 << 20
_LEAST_SAMPLES = 9
#: A silence of the controller that is shorter than this proves nothing.
_LEAST_SILENCE_MS = 1000.0
#: A reading may be followed by the next this much after it has run out.
_OVERLAP_MS = 10_000.0
#: Sums of floating-point numbers may differ in their last digits.
_ROUNDING = 1e-9


# --- P4


def bounded(facts: Facts) -> Iterator[Violation]:
    """P4 (first half): every stream stays within its bound, requests drain to nothing, memory is flat."""
    for sample in facts.samples:
        for stream, length in sample.lengths.items():
            bound = sample.bounds.get(stream)
            if bound is None:
                yield Violation("P4", stream, f"has {length} entries and no bound")
            elif length > bound:
                yield Violation("P4", stream, f"has {length} entries, expected at most {bound}")
        if sample.final and (sample.waiting or sample.pending):
            yield Violation("P4", "requests", f"{sample.waiting} waiting and {sample.pending} pending in the end")
    yield from _growing(facts.samples)


def _growing(samples: list[Sample]) -> Iterator[Violation]:
    series: dict[str, list[int]] = defaultdict(list)
    for sample in samples:
        for name, size in sample.memory_bytes.items():
            series[name].append(size)
    for name, sizes in series.items():
        if len(sizes) < _LEAST_SAMPLES:
            continue
        third = len(sizes) // 3
        middle, last = statistics.median(sizes[third : 2 * third]), statistics.median(sizes[-third:])
        if last > middle * _MEMORY_FACTOR + _MEMORY_BYTES:
            yield Violation("P4", name, f"grew from {middle / 2**20:.0f} to {last / 2**20:.0f} MiB")


# --- P5, P6


def carbon_is_no_precondition(facts: Facts) -> Iterator[Violation]:
    """P5: without carbon data requests are answered as before, and stale data is never called measured."""
    for fault in facts.faults:
        if fault.name.startswith("carbon"):
            for story in facts.due_during(fault):
                if story.unanswered:
                    yield Violation("P5", story.id, f"was not answered while carbon data was missing: {story.ends[0]}")
    for seen in facts.of(CarbonSeen):
        over_ms = seen.at_ms - seen.to_ms
        if seen.status == "measured" and seen.fallback_level == 0 and over_ms > _OVERLAP_MS:
            yield Violation("P5", seen.source, f"is called measured, but ran out {over_ms / 1e3:.0f} s ago")


def controller_is_no_precondition(facts: Facts) -> Iterator[Violation]:
    """P6: without a controller nodes go on with the last plan."""
    for fault in facts.faults:
        if not fault.name.startswith("controller"):
            continue
        stories = facts.due_during(fault)
        for story in stories:
            if story.unanswered:
                yield Violation("P6", story.id, f"was not answered while no controller acted: {story.ends[0]}")
        alone = fault.until_ms - fault.at_ms >= _LEAST_SILENCE_MS and not _others(facts, fault.at_ms, fault.until_ms)
        answered = any(fault.at_ms <= reply.at_ms for story in stories for reply in story.replies)
        if alone and stories and not answered:
            yield Violation("P6", fault.target or fault.name, "stopped the service: no reply while no controller acted")


def _others(facts: Facts, from_ms: float, until_ms: float) -> bool:
    """Return whether something else was broken at the same time that may hold up all replies."""
    return any(
        not fault.name.startswith(("controller", "carbon")) and fault.at_ms <= until_ms and fault.until_ms >= from_ms
        for fault in facts.faults
    )


# --- P7


def one_controller_acts(facts: Facts) -> Iterator[Violation]:
    """P7: no epoch is published twice, none by a controller while another surely holds the lease, none goes back."""
    acts, leases = list(facts.of(Acted)), list(facts.of(LeaseTaken))
    for first, second in pairwise(sorted(acts, key=lambda act: (act.epoch, act.at_ms))):
        if first.epoch == second.epoch and not facts.data_lost_between(first.at_ms, second.at_ms):
            yield Violation("P7", second.holder, f"published epoch {second.epoch}, as did {first.holder}")
    for act in acts:
        for lease in leases:
            inside = lease.at_ms < act.asked_ms and act.at_ms < _held_until_ms(lease, leases)
            if inside and lease.holder != act.holder and not facts.data_lost_between(lease.at_ms, act.at_ms):
                yield Violation("P7", act.holder, f"published epoch {act.epoch} while {lease.holder} held the lease")
                break
    yield from _going_back(facts)


def _held_until_ms(lease: LeaseTaken, leases: list[LeaseTaken]) -> float:
    """Return until when a lease was surely held: a holder that gives it back writes one that has ended."""
    given_back = [
        other.until_ms
        for other in leases
        if other.holder == lease.holder and lease.at_ms <= other.at_ms and other.until_ms <= other.at_ms
    ]
    return min([lease.until_ms, *given_back])


def _going_back(facts: Facts) -> Iterator[Violation]:
    newest: dict[str, int] = {}
    for applied in facts.of(Applied):
        if applied.epoch <= newest.get(applied.node, 0):
            yield Violation("P7", applied.node, f"went from epoch {newest[applied.node]} back to {applied.epoch}")
        newest[applied.node] = max(applied.epoch, newest.get(applied.node, 0))


# --- P8


def malformed_is_buried(facts: Facts) -> Iterator[Violation]:
    """P8: a malformed message costs one entry of the dead stream, and never a process."""
    buried = Counter((one.stream, one.entry_id) for one in facts.of(Buried) if one.reason)
    for planted in facts.of(Planted):
        times = buried[planted.stream, planted.entry_id]
        gone = facts.data_lost_between(planted.at_ms, facts.records[-1].at_ms)
        if times > 1 or (times == 0 and facts.complete and not gone):
            yield Violation("P8", f"{planted.stream} {planted.entry_id}", f"malformed, was buried {times} times")
    for ended in facts.of(ProcessEnded):
        if not ended.expected:
            yield Violation("P8", ended.name, f"ended by itself: {ended.detail}")


# --- P9


def totals_grow(facts: Facts) -> Iterator[Violation]:
    """P9: totals of energy and carbon never go back, over restarts either, as long as the server's data survives."""
    for before, after in pairwise(facts.of(TotalsSeen)):
        if facts.data_lost_between(before.at_ms, after.at_ms):
            continue
        for what in ("energy_j", "footprint_g"):
            old, new = getattr(before, what), getattr(after, what)
            if new < old * (1.0 - _ROUNDING):
                yield Violation("P9", what, f"fell from {old} to {new}")
