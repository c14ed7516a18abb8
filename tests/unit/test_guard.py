"""The guard on the SLA and what it takes for proof: measures in order, bursts, breaches that last, stepping back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random

import pytest

from clover.core.guard import GuardLevel, GuardSettings, SlaGuard, measures
from clover.core.lateness import DesignEffect, LateWindow, wilson


def watch(
    guard: SlaGuard,
    *,
    from_s: int,
    to_s: int,
    late_pct: int,
    able: tuple[GuardLevel, ...] = ("wake", "dispatch", "plan", "shed"),
    rate: int = 100,
    oldest_s: float = 0.0,
) -> list[tuple[int, GuardLevel]]:
    moves: list[tuple[int, GuardLevel]] = []
    for second in range(from_s, to_s):
        guard.observe(float(second), rate, rate * late_pct // 100, oldest_s)
        verdict = guard.judge(float(second), able, busy=False)
        if verdict is not None:
            moves.append((second, verdict.level))
    return moves


def test_the_guard_goes_through_all_measures_in_order_and_waits_for_the_effect_of_each() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    moves = watch(guard, from_s=0, to_s=200, late_pct=20)
    assert [level for _, level in moves] == ["wake", "dispatch", "plan", "shed"]
    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(moves)]
    assert min(gaps) >= guard.settings.settle_s


def test_the_guard_leaves_out_what_would_change_nothing() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    moves = watch(guard, from_s=0, to_s=200, late_pct=20, able=("dispatch", "plan", "shed"))
    assert [level for _, level in moves] == ["dispatch", "plan", "shed"]


def test_the_guard_does_nothing_about_what_may_be_chance() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    assert watch(guard, from_s=0, to_s=600, late_pct=5) == []
    # 5 of 30 late are 17 %, and prove little.
    few = SlaGuard(GuardSettings(sla_ms=200.0))
    few.observe(0.0, 30, 5, 0.0)
    assert few.judge(0.0, ("plan",), busy=False) is None


def test_the_guard_acts_on_requests_that_are_stuck_although_none_is_answered() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    assert watch(guard, from_s=0, to_s=10, late_pct=0, rate=0, oldest_s=3.0)[0] == (1, "wake")


def test_the_guard_steps_back_slowly_and_twice_as_slowly_after_a_relapse() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    assert watch(guard, from_s=0, to_s=1, late_pct=20) == [(0, "wake")]
    ((first, level),) = watch(guard, from_s=1, to_s=200, late_pct=1)
    assert level == "none"
    assert first >= guard.settings.lower_s
    ((raised, _),) = watch(guard, from_s=200, to_s=215, late_pct=40)
    *_, (second, _) = watch(guard, from_s=215, to_s=1500, late_pct=0)
    assert guard.level == "none"
    assert second - raised >= 2.0 * guard.settings.lower_s


def bursts(rng: Random, late: float, *, rate: int, length_s: int) -> Iterator[int]:
    """Late requests of each second, in bursts of one to eleven: a design effect of about eight."""
    for _ in range(length_s):
        # A queue makes some requests in a row late, and queues come independently.
        queues = sum(rng.random() < late / 6.0 for _ in range(rate))
        yield min(rate, sum(rng.randint(1, 11) for _ in range(queues)))


def raised(guard: SlaGuard, counts: Iterable[int], *, rate: int, from_s: int = 0) -> list[int]:
    """Return when a guard steps up; it may wake GPUs, which changes nothing here."""
    found: list[int] = []
    for second, late in enumerate(counts, from_s):
        guard.observe(float(second), rate, late, 0.0)
        verdict = guard.judge(float(second), ("wake",), busy=False)
        if verdict is not None and verdict.raised:
            found.append(second)
    return found


def test_lateness_in_bursts_near_the_limit_is_no_alarm() -> None:
    counts = list(bursts(Random(1), 0.04, rate=60, length_s=24 * 3600))
    assert 0.035 < sum(counts) / (60 * len(counts)) < 0.045
    found = raised(SlaGuard(GuardSettings(sla_ms=200.0)), counts, rate=60)
    assert len(found) <= 8
    # Minutes that would be proof if requests were independent are not rare.
    minutes = [wilson(sum(counts[i : i + 60]), 3600)[0] for i in range(0, len(counts), 60)]
    assert sum(low > 0.05 for low in minutes) > 30


@pytest.mark.parametrize(("late", "within_s"), [(0.08, 1800), (0.12, 600), (0.3, 60)])
def test_a_lasting_breach_is_seen_although_it_comes_in_bursts(late: float, within_s: int) -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    assert raised(guard, bursts(Random(2), 0.02, rate=60, length_s=3600), rate=60) == []
    found = raised(guard, bursts(Random(3), late, rate=60, length_s=within_s), rate=60, from_s=3600)
    assert found
    assert guard.level == "wake"


@pytest.mark.parametrize("rate", [12, 60, 500])
def test_an_outage_is_seen_within_seconds_whatever_was_seen_before(rate: int) -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    assert raised(guard, bursts(Random(4), 0.02, rate=rate, length_s=3600), rate=rate) == []
    (first, *_) = raised(guard, [rate] * 30, rate=rate, from_s=3600)
    assert first <= 3600 + 10


def test_a_breach_that_is_over_is_no_alarm() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    assert raised(guard, [0] * 300, rate=20) == []
    # A short outage that something else has ended: the long window still shows it, the short one does not.
    outage = [20] * 4 + [0] * 1200
    assert len(raised(guard, outage, rate=20, from_s=300)) <= 1
    assert guard.level == "none"


def test_relapses_long_ago_are_forgotten() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    watch(guard, from_s=0, to_s=1, late_pct=20)
    watch(guard, from_s=1, to_s=400, late_pct=0)
    watch(guard, from_s=400, to_s=415, late_pct=40)
    watch(guard, from_s=415, to_s=5000, late_pct=0)
    ((again, _),) = watch(guard, from_s=5000, to_s=5010, late_pct=40)
    ((lowered, _),) = watch(guard, from_s=5010, to_s=6000, late_pct=0)
    assert lowered - again < 2.0 * guard.settings.lower_s


@pytest.mark.parametrize(("length_s", "low", "high"), [(1, 1.0, 1.6), (5, 2.0, 10.0)])
def test_the_design_effect_tells_bursts_from_chance(length_s: int, low: float, high: float) -> None:
    rng, effect = Random(5), DesignEffect()
    p = 0.05
    for second in range(0, 3600, length_s):
        if length_s == 1:
            effect.observe(float(second), 60, sum(rng.random() < p for _ in range(60)))
        else:
            bad = rng.random() < p
            for step in range(length_s):
                effect.observe(float(second + step), 60, 60 if bad else 0)
    assert low <= effect.value <= high


def test_a_window_forgets_what_is_older_than_it_is_long() -> None:
    window = LateWindow(60.0)
    for second in range(100):
        window.observe(float(second), 10, 10 if second < 30 else 0)
    assert (window.seen(1.0).answered, window.seen(1.0).late) == (610, 0)
    window.clear()
    assert window.seen(1.0).answered == 0


def test_the_guard_takes_no_step_while_one_is_being_put_in_force() -> None:
    guard = SlaGuard(GuardSettings(sla_ms=200.0))
    for second in range(60):
        guard.observe(float(second), 100, 50, 0.0)
        assert guard.judge(float(second), ("plan",), busy=True) is None
    assert guard.level == "none"


@pytest.mark.parametrize(("late", "answered"), [(0, 100), (5, 100), (50, 1000), (100, 100)])
def test_wilsons_bounds_hold_the_share_between_them(late: int, answered: int) -> None:
    low, high = wilson(late, answered)
    assert 0.0 <= low <= late / answered + 1e-12
    assert late / answered <= high + 1e-12 <= 1.0 + 1e-12


def test_nothing_is_woken_where_nothing_is_parked() -> None:
    assert set(measures(parked=True)) - set(measures(parked=False)) == {"wake"}


def test_the_guard_does_not_judge_a_step_by_what_was_before_it() -> None:
    """The first step helps at once; its telemetry comes half a minute later than that."""
    now, late = SlaGuard(GuardSettings(sla_ms=200.0)), SlaGuard(GuardSettings(sla_ms=200.0))
    for guard, age_s in ((now, 0), (late, 30)):
        helped_s, moves = None, list[GuardLevel]()
        for second in range(200):
            was_s = second - age_s
            bad = was_s >= 20 and (helped_s is None or was_s <= helped_s)
            guard.observe(float(second), 100, 50 if bad else 0, 0.0, float(age_s))
            verdict = guard.judge(float(second), ("wake", "dispatch", "plan"), busy=False)
            if verdict is not None and verdict.raised:
                moves.append(verdict.level)
                helped_s = second if helped_s is None else helped_s
        assert moves == ["wake"]
