"""The account of a GPU with a counter: its parts sum to what the counter says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clover.bus.messages import EnergyCounters
from clover.power.ledger import by_cause
from clover.power.metered import MeteredAccount


def account() -> MeteredAccount:
    made = MeteredAccount(idle_power_w=50.0, parked_power_w=25.0, compute_slices=7, now_s=0.0)
    made.measure(1_000_000, now_s=0.0)
    return made


def test_idle_power_comes_first_and_the_rest_goes_to_requests_by_their_estimates() -> None:
    made = account()
    made.set_state("serving", occupied_slices=7, now_s=0.0)
    made.add_request("a", 1.0)
    made.add_request("b", 3.0)
    assert made.read(1.0) == EnergyCounters()
    made.measure(1_090_000, now_s=1.0)
    read = made.read(1.0)
    assert read.idle_j == pytest.approx(50.0)
    assert read.requests_j == {"a": pytest.approx(10.0), "b": pytest.approx(30.0)}


def test_a_counter_that_says_less_than_idle_power_is_believed() -> None:
    made = account()
    made.set_state("serving", occupied_slices=3, now_s=0.0)
    made.add_request("a", 1.0)
    made.measure(1_021_000, now_s=1.0)
    read = made.read(1.0)
    assert (read.idle_j, read.unallocated_j) == (pytest.approx(9.0), pytest.approx(12.0))
    assert sum(read.requests_j.values()) == 0.0


def test_what_nobody_asked_for_is_booked_to_what_stood_there() -> None:
    made = account()
    made.set_state("changing", occupied_slices=0, now_s=0.0)
    made.measure(1_080_000, now_s=1.0)
    assert made.read(1.0).transition_j == pytest.approx(80.0)
    made.set_state("off", occupied_slices=0, now_s=1.0)
    made.measure(1_083_000, now_s=2.0)
    assert made.read(2.0).unallocated_j == pytest.approx(3.0)


def test_a_counter_that_began_anew_is_not_guessed_at() -> None:
    made = account()
    made.set_state("serving", occupied_slices=7, now_s=0.0)
    made.measure(1_050_000, now_s=1.0)
    made.measure(10_000, now_s=2.0)
    made.measure(60_000, now_s=3.0)
    assert made.read(3.0).idle_j == pytest.approx(100.0)


def test_joules_beside_the_gpu_are_added_to_what_its_counter_says() -> None:
    made = account()
    made.set_state("serving", occupied_slices=7, now_s=0.0)
    made.add_request("a", 0.4, beside=True)
    made.measure(1_050_000, now_s=1.0)
    read = made.read(1.0)
    assert (read.idle_j, read.requests_j) == (pytest.approx(50.0), {"a": pytest.approx(0.4)})


STEP = st.tuples(
    st.floats(0.0, 5.0),
    st.integers(0, 1_000_000),
    st.sampled_from(["serving", "changing", "parked", "off"]),
    st.integers(0, 7),
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0.0, 100.0)), max_size=3),
)


@given(steps=st.lists(STEP, max_size=12))
def test_the_parts_sum_to_the_counter_and_never_shrink(
    steps: list[tuple[float, int, str, int, list[tuple[str, float]]]],
) -> None:
    made, now_s, counter = account(), 0.0, 1_000_000
    before = by_cause(made.read(0.0))
    for seconds, used_mj, state, occupied, requests in steps:
        made.set_state(state, occupied_slices=occupied, now_s=now_s)  # pyright: ignore[reportArgumentType]
        for variant, joules in requests:
            made.add_request(variant, joules)
        now_s, counter = now_s + seconds, counter + used_mj
        made.measure(counter, now_s=now_s)
        after = by_cause(made.read(now_s))
        assert all(after[cause] >= joules - 1e-9 for cause, joules in before.items())
        assert sum(after.values()) == pytest.approx((counter - 1_000_000) / 1e3)
        before = after
