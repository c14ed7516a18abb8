"""The account and the ledger lose and invent nothing, whatever happens in whatever order."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from clover.bus.messages import EnergyCounters, GpuTelemetry, LedgerCheckpoint, NodeTelemetry
from clover.core.timeline import StepFunction
from clover.power.account import GpuAccount
from clover.power.counter import CounterTracker
from clover.power.ledger import Ledger, by_cause

CLOSE = 1e-9
POSITIVE = st.floats(0.0, 5000.0, allow_nan=False)
SECONDS = st.floats(0.0, 900.0, allow_nan=False)
STATES = st.sampled_from(["serving", "changing", "parked", "off"])

#: What may happen to a GPU between two looks at its counter.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), SECONDS),
        st.tuples(st.just("state"), st.tuples(STATES, st.integers(0, 7))),
        st.tuples(st.just("begin"), st.tuples(st.integers(0, 3), st.sampled_from(["small", "large"]))),
        st.tuples(st.just("end"), st.integers(0, 3)),
        st.tuples(st.just("answer"), st.sampled_from(["small", "large"])),
        st.tuples(st.just("use"), POSITIVE),
        st.tuples(st.just("read"), st.booleans()),
        st.tuples(st.just("restart"), st.booleans()),
        st.tuples(st.just("reload"), st.just(0)),
    ),
    max_size=60,
)


class Bench:
    """A GPU with a counter, and agents that come and go and account for it."""

    def __init__(self) -> None:
        self.now_s, self.counter_j, self.used_j = 1000.0, 5e6, 0.0
        self.closed_j, self.lost_j = 0.0, 0.0
        self.account = self._new(None)
        self.account.take_counter(self.counter_j, self.now_s)
        self.at_look_j = self.counter_j

    def _new(self, last_j: float | None) -> GpuAccount:
        return GpuAccount(
            idle_power_w=38.0,
            parked_power_w=25.0,
            compute_slices=7,
            now_s=self.now_s,
            dynamic_power_w=lambda variant, _: {"small": 30.0, "large": 190.0}[variant],
            metered=True,
            last_counter_j=last_j,
        )

    def do(self, kind: str, value: Any) -> None:
        getattr(self, f"on_{kind}")(value)

    def on_wait(self, seconds: float) -> None:
        self.now_s += seconds

    def on_state(self, value: tuple[Any, int]) -> None:
        self.account.set_state(value[0], occupied_slices=value[1], now_s=self.now_s)

    def on_begin(self, value: tuple[int, str]) -> None:
        self.account.begin_work(value[0], value[1], "1g", self.now_s)

    def on_end(self, key: int) -> None:
        self.account.end_work(key, self.now_s)

    def on_answer(self, variant: str) -> None:
        self.account.add_request(variant, 3.0)

    def on_use(self, energy_j: float) -> None:
        self.counter_j += energy_j
        self.used_j += energy_j

    def on_read(self, answers: bool) -> None:
        if answers:
            self.account.take_counter(self.counter_j, self.now_s)
            self.at_look_j = self.counter_j

    def on_restart(self, looked: bool) -> None:
        """End the agent; the next one goes on from what was kept."""
        self.on_read(looked)
        self.closed_j += self.total()
        self.account = self._new(self.account.counter_j)
        self.account.take_counter(self.counter_j, self.now_s)
        self.at_look_j = self.counter_j

    def on_reload(self, _: int) -> None:
        """Load the driver anew: what was not read is lost, and the counter begins at zero."""
        self.lost_j += self.counter_j - self.at_look_j
        self.used_j -= self.counter_j - self.at_look_j
        self.counter_j = self.at_look_j = 0.0
        # The first look after it is the only one that can notice; afterwards counting is as before.
        before = self.account.read(self.now_s).unresolved_j
        self.account.take_counter(0.0, self.now_s)
        self.estimated_j = self.account.read(self.now_s).unresolved_j - before
        self.closed_j -= self.estimated_j

    def total(self) -> float:
        counters = self.account.read(self.now_s)
        return sum(by_cause(counters).values()) + counters.unresolved_j


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_the_parts_sum_to_the_counter_for_any_interleaving(events: list[tuple[str, Any]]) -> None:
    bench = Bench()
    for kind, value in events:
        bench.do(kind, value)
    bench.on_read(True)
    assert math.isclose(bench.closed_j + bench.total(), bench.used_j, rel_tol=CLOSE, abs_tol=1e-6)
    counters = bench.account.read(bench.now_s)
    assert all(joules >= 0.0 for joules in [*by_cause(counters).values(), *counters.requests_j.values()])


@given(st.lists(st.floats(0.0, 200.0), min_size=1, max_size=50), st.floats(250.0, 1000.0))
def test_a_counter_that_wraps_is_summed_as_if_it_did_not(steps: list[float], range_j: float) -> None:
    tracker, counter, total = CounterTracker(range_j), 0.0, 0.0
    tracker.advance(counter)
    for step in steps:
        counter = (counter + step) % range_j
        advance = tracker.advance(counter)
        assert advance is not None
        total += advance.energy_j
    assert math.isclose(total, sum(steps), rel_tol=CLOSE, abs_tol=1e-7)


# --- ledger -----------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.floats(1.0, 7200.0), st.floats(0.0, 900.0)), min_size=1, max_size=12)


def _grid(steps: list[tuple[float, float]]) -> StepFunction:
    grid, at = StepFunction(), 0.0
    for length, value in steps:
        grid.add(at, value)
        at += length
    return grid


def _telemetry(
    at_s: float, energy_j: float, *, boot: str = "b1", node: str = "n1", booted_s: float = 0.0
) -> NodeTelemetry:
    energy = EnergyCounters(
        requests_j={"small": 0.25 * energy_j, "large": 0.25 * energy_j},
        idle_j=0.25 * energy_j,
        unallocated_j=0.125 * energy_j,
        parked_j=0.0625 * energy_j,
        transition_j=0.0625 * energy_j,
        answered={"small": int(at_s)},
    )
    gpu = GpuTelemetry(
        index=0, uuid="G", phase="serving", reason="", since_ms=0.0, applied_epoch=1, instances=(), energy=energy
    )
    return NodeTelemetry(
        node=node, boot_id=boot, booted_at_ms=booted_s * 1e3, at_ms=at_s * 1e3, interval_s=1.0, backend="sim",
        gpu_model="a100-40gb", application="albert", epoch=1, applied_epoch=1, gpus=(gpu,), begun={}, in_flight=0,
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(STEPS, st.lists(st.floats(0.001, 0.999), max_size=8), st.floats(100.0, 40_000.0), st.floats(1.0, 400.0))
def test_splitting_a_window_changes_nothing(
    steps: list[tuple[float, float]], cuts: list[float], end_s: float, power_w: float
) -> None:
    grid = _grid(steps)
    whole, split = Ledger(effective_intensity=grid.mean), Ledger(effective_intensity=grid.mean)
    whole.take(_telemetry(end_s, power_w * end_s), idle_power_w=38.0)
    for cut in sorted({end_s * cut for cut in cuts} | {end_s}):
        split.take(_telemetry(cut, power_w * cut), idle_power_w=38.0)
        # Taken in twice, or late: adds nothing.
        split.take(_telemetry(cut, power_w * cut), idle_power_w=38.0)
        split.take(_telemetry(0.5 * cut, power_w * 0.5 * cut), idle_power_w=38.0)
        # A restart of the monitor in between: goes on from the checkpoint as it is on the wire.
        split = _restarted(split, grid)
    expected = power_w * end_s / 3.6e6 * grid.mean(0.0, end_s)
    for ledger in (whole, split):
        assert math.isclose(ledger.footprint_g, expected, rel_tol=CLOSE, abs_tol=1e-12)
        reading, parts = ledger.reading(), ledger.in_parts()
        assert math.isclose(reading.energy_j, power_w * end_s, rel_tol=CLOSE)
        assert math.isclose(reading.gpu_s, end_s, rel_tol=CLOSE)
        assert reading.answered == int(end_s)
        for group in (parts.by_node, parts.by_gpu, parts.by_source, parts.by_hour):
            assert math.isclose(sum(p.energy_j for p in group.values()), reading.energy_j, rel_tol=CLOSE)
            assert math.isclose(sum(p.footprint_g for p in group.values()), expected, rel_tol=CLOSE, abs_tol=1e-12)
            assert sum(p.answered for p in group.values()) == reading.answered
        variants = sum(p.energy_j for p in parts.by_variant.values())
        assert math.isclose(variants, reading.by_cause_j["requests"], rel_tol=CLOSE)


def _restarted(ledger: Ledger, grid: StepFunction) -> Ledger:
    checkpoint = LedgerCheckpoint(
        ledger=ledger.reading(),
        trace_started_ms=0.0,
        telemetry_cursor="0",
        counters=ledger.counters,
        counters_at_ms=ledger.counters_at_ms,
        parts=ledger.in_parts(),
    )
    fresh = Ledger(effective_intensity=grid.mean)
    fresh.restore(msgspec.json.decode(msgspec.json.encode(checkpoint), type=LedgerCheckpoint))
    return fresh


@given(st.floats(10.0, 1000.0), st.floats(1.0, 1000.0), st.booleans())
def test_a_silence_is_unresolved_as_measured_or_as_estimated(first_s: float, silent_s: float, measured: bool) -> None:
    ledger = Ledger(effective_intensity=StepFunction([(0.0, 300.0)]).mean)
    ledger.take(_telemetry(first_s, 100.0 * first_s), idle_power_w=38.0)
    before = ledger.footprint_g
    booted_s = first_s + silent_s
    after = _telemetry(booted_s + 1.0, 0.0, boot="b2", booted_s=booted_s)
    energy = msgspec.structs.replace(
        after.gpus[0].energy, unresolved_j=777.0 if measured else 0.0, gap_measured=measured
    )
    ledger.take(
        msgspec.structs.replace(after, gpus=(msgspec.structs.replace(after.gpus[0], energy=energy),)), idle_power_w=38.0
    )
    assert math.isclose(ledger.unresolved_j, 777.0 if measured else 38.0 * silent_s, rel_tol=CLOSE)
    assert ledger.footprint_g == before
    assert set(ledger.counters) == {"n1/b2/0"}


@given(STEPS, st.floats(0.0, 5000.0), st.floats(0.001, 5000.0), st.floats(0.0, 1.0))
def test_the_mean_of_a_step_function_is_additive(
    steps: list[tuple[float, float]], from_s: float, length_s: float, part: float
) -> None:
    grid = _grid(steps)
    middle, end = from_s + part * length_s, from_s + length_s
    whole = grid.mean(from_s, end) * (end - from_s)
    parts = grid.mean(from_s, middle) * (middle - from_s) + grid.mean(middle, end) * (end - middle)
    assert math.isclose(whole, parts, rel_tol=1e-9, abs_tol=1e-6)
