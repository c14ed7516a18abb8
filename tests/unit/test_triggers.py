"""What makes the controller decide anew, and what is held back."""

from __future__ import annotations

import pytest

from clover.core.holds import Holds
from clover.core.load import (
    LoadEstimate,
    rate_to_plan,
)
from clover.core.triggers import INTENSITY_TRIGGER, Pace, PaceSettings, Situation, Triggers


def situation(**changes: object) -> Situation:
    values: dict[str, object] = {
        "joined": 0,
        "left": 0,
        "effective": 300.0,
        "decided_effective": 300.0,
        "load": LoadEstimate.sure(10.0),
        "planned_rps": 11.0,
    }
    return Situation(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "trigger"),
    [
        ({}, None),
        ({"effective": 300.0 + INTENSITY_TRIGGER + 0.1}, "intensity"),
        ({"effective": None}, None),
        ({"joined": 1}, "fleet"),
        ({"left": 2, "override": "pinned"}, "override"),
        ({"load": LoadEstimate.sure(12.0)}, "load"),
        ({"load": LoadEstimate(rate_rps=10.0, low_rps=9.5, high_rps=10.5, ahead_rps=12.0)}, "load"),
        ({"drift": "service time"}, "drift"),
    ],
)
def test_what_triggers_a_decision(changes: dict[str, object], trigger: str | None) -> None:
    found = Triggers(Pace(PaceSettings())).judge(situation(**changes), 100.0)
    assert (found.trigger if found else None) == trigger


def test_less_load_must_last_and_a_cool_down_is_kept() -> None:
    pace = Pace(PaceSettings())
    triggers = Triggers(pace)
    low = situation(load=LoadEstimate.sure(3.0))
    assert triggers.judge(low, 0.0) is None
    assert triggers.judge(low, 119.0) is None
    pace.decided("intensity", 110.0)
    assert triggers.judge(low, 125.0) is None
    found = triggers.judge(low, 171.0)
    assert found is not None
    assert found.rate_rps == rate_to_plan(LoadEstimate.sure(3.0))


def test_plans_per_hour_are_bounded_for_what_might_flap_but_not_for_the_guard_and_people() -> None:
    pace = Pace(PaceSettings(plans_per_hour=5))
    for second in range(5):
        assert pace.allows("load", float(second), urgent=True)
        pace.decided("load", float(second))
    assert not pace.allows("load", 10.0, urgent=True)
    assert not pace.allows("drift", 10.0)
    assert pace.allows("sla", 10.0)
    assert pace.allows("override", 10.0)
    assert pace.allows("load", 3600.0, urgent=True)


@pytest.mark.parametrize(
    ("joined", "left", "joined_before_s", "decided"),
    [
        (0, 0, None, False),
        (1, 0, None, True),
        (0, 1, None, True),
        # A loss never waits, another one that joins not for long.
        (0, 1, 1.0, True),
        (2, 1, 1.0, True),
        (1, 0, 1.0, False),
        (1, 0, 29.0, False),
        (1, 0, 30.0, True),
    ],
)
def test_gpus_that_are_lost_never_wait_and_those_that_join_not_for_long(
    joined: int, left: int, joined_before_s: float | None, *, decided: bool
) -> None:
    triggers, now_s = Triggers(Pace(PaceSettings())), 10_000.0
    # The budget of the hour is used up, and the cool-down has begun.
    for back_s in range(20):
        triggers.pace.decided("load", now_s - back_s)
    if joined_before_s is not None:
        found = triggers.judge(situation(joined=1), now_s - joined_before_s)
        assert found is not None
        assert found.trigger == "fleet"
    found = triggers.judge(situation(joined=joined, left=left), now_s)
    assert ((found.trigger if found else None) == "fleet") is decided


@pytest.mark.parametrize(
    ("free", "times", "hold_s"),
    [(0, 1, 30.0), (0, 3, 120.0), (2, 1, 0.0), (2, 2, 0.0), (2, 3, 30.0), (2, 2000, 1800.0)],
)
def test_what_happens_again_and_again_is_held_back_longer_each_time_up_to_the_most(
    free: int, times: int, hold_s: float
) -> None:
    holds = Holds[str](free=free, first_s=30.0, most_s=1800.0, forget_s=3600.0)
    found = [holds.again("n1", float(second)) for second in range(times)]
    last_s = times - 1.0
    assert found[-1] == hold_s
    assert holds.held("n1", last_s) is (hold_s > 0.0)
    assert not holds.held("n1", last_s + hold_s)
    assert not holds.held("n2", last_s)
    # Long ago is forgotten.
    assert holds.again("n1", last_s + 3601.0) == found[0]
