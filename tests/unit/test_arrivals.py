"""Arrival processes, shapes, traces and their dialects, schedules of several generators."""

from __future__ import annotations

import gzip
import itertools
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clover.arrivals import load_arrivals
from clover.core.arrival_trace import ArrivalTrace, read_arrivals
from clover.core.arrivals import PEAKS, SHAPES, RateProfile, from_on, scaled, shaped, unit_gaps
from clover.core.schedule import Load, Mix
from clover.errors import ConfigurationError, TraceError

_PROCESS = st.sampled_from(["poisson", "constant", "gamma"])


@settings(max_examples=60, deadline=None)
@given(
    process=_PROCESS,
    shape=st.sampled_from(SHAPES),
    rate=st.floats(0.05, 500.0),
    period=st.floats(0.5, 1e5),
    seed=st.integers(0, 1000),
)
def test_arrivals_rise_and_have_the_mean_that_was_asked_for(
    process: str, shape: str, rate: float, period: float, seed: int
):
    load = Load(process=process, smoothness=2.0, shape=shape, rate_rps=rate, period_s=period)
    profile = shaped(shape, rate_rps=rate, period_s=period)
    assert profile.mean_rps == pytest.approx(rate)
    times = list(itertools.islice(load.times_s(seed), 2000))
    assert all(b >= a >= 0.0 for a, b in itertools.pairwise(times))
    # The number of arrivals expected by the last one is 2000 give or take five standard deviations of Poisson.
    whole, rest = divmod(times[-1], profile.end_s)
    edges = [*profile.starts_s, profile.end_s]
    widths = [max(0.0, min(b, rest) - a) for a, b in itertools.pairwise(edges)]
    expected = whole * profile.mean_rps * profile.end_s
    expected += sum(r * w for r, w in zip(profile.rates_rps, widths, strict=True))
    assert expected == pytest.approx(2000, abs=1.0 if process == "constant" else 5.0 * math.sqrt(2000))


@given(process=_PROCESS, of=st.integers(1, 7), seed=st.integers(0, 99))
def test_several_generators_send_exactly_the_one_schedule(process: str, of: int, seed: int):
    load = Load(process=process, rate_rps=3.0)
    whole = list(itertools.islice(load.times_s(seed), 70))
    parts = [list(itertools.islice(load.share(seed, index, of), 70 // of)) for index in range(of)]
    assert sorted(t for part in parts for t in part) == whole[: 70 // of * of]


def test_a_seed_repeats_and_another_does_not():
    load = Load(rate_rps=2.0)
    first, second, other = (list(itertools.islice(load.times_s(seed), 20)) for seed in (1, 1, 2))
    assert first == second != other


def test_gamma_gaps_have_the_variation_of_their_smoothness():
    for smoothness in (0.25, 1.0, 4.0):
        gaps = list(itertools.islice(unit_gaps("gamma", Random(1), smoothness=smoothness), 20_000))
        mean = sum(gaps) / len(gaps)
        sigma = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert mean == pytest.approx(1.0, abs=0.05)
        assert sigma == pytest.approx(1.0 / math.sqrt(smoothness), rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_reach_their_peak_and_never_a_rate_below_zero(shape: str):
    for peak in PEAKS[shape]:
        rates = shaped(shape, rate_rps=10.0, period_s=24.0, peak=peak).rates_rps
        assert max(rates) == pytest.approx(10.0 * peak, rel=0.01)
        assert min(rates) >= 0.0
    with pytest.raises(ConfigurationError, match="expected a number from 1 to"):
        shaped(shape, rate_rps=1.0, period_s=1.0, peak=PEAKS[shape][1] + 0.1)


def test_the_day_is_lowest_before_dawn_and_the_spike_in_the_middle():
    day = shaped("diurnal", rate_rps=1.0, period_s=24.0)
    assert min(range(24), key=lambda hour: day.at(hour + 0.5)) in {3, 4}
    spike = shaped("spike", rate_rps=1.0, period_s=100.0)
    assert (spike.at(50.0), spike.at(150.0)) == (pytest.approx(5.0), pytest.approx(5.0))
    assert spike.at(10.0) == pytest.approx(0.5 / 0.9)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="arrivals = 'weibull': expected one of poisson"):
        unit_gaps("weibull", Random(1))
    with pytest.raises(ConfigurationError, match="smoothness = 0"):
        unit_gaps("gamma", Random(1), smoothness=0.0)
    with pytest.raises(ConfigurationError, match="shape = 'square'"):
        shaped("square", rate_rps=1.0, period_s=1.0)
    with pytest.raises(ValueError, match="rising"):
        RateProfile((0.0, 2.0, 1.0), (1.0, 1.0, 1.0), 3.0)


@given(factor=st.floats(0.1, 4.0), seed=st.integers(0, 20))
def test_scaling_keeps_order_and_span(factor: float, seed: int):
    times = list(itertools.accumulate(Random(seed).random() for _ in range(400)))
    found = list(scaled(times, factor, Random(seed)))
    assert found == sorted(found)
    assert len(found) == pytest.approx(400 * factor, abs=100)
    assert not found or times[0] <= found[0] <= found[-1] <= times[-1]
    assert list(scaled(times, 1.0, Random(seed))) == times


# --- traces


def _read(text: str) -> ArrivalTrace:
    return read_arrivals(text.splitlines(keepends=True), name="t")


def test_our_own_three_forms():
    moments = _read("# a comment\ntime_s\n10\n11\n\n13\n")
    assert moments.times_s == (0.0, 1.0, 3.0)
    rates = _read("time_s,rate_rps\n0,1\n60,3\n")
    assert (rates.mean_rps, rates.span_s) == (2.0, 120.0)
    counts = _read("time_s,requests\n0,60\n60,180\n")
    assert counts.profile == rates.profile


def test_azure_functions_2021_is_ordered_by_its_ends_and_begins_earlier():
    trace = _read("app,func,end_timestamp,duration\na,f,5.0,1.0\nb,g,6.0,5.5\na,f,6.5,0.5\n")
    assert trace.dialect == "azure-functions-2021"
    assert trace.times_s == (0.0, 3.5, 5.5)


def test_azure_llm_of_both_years_seven_decimals_offsets_and_any_order():
    old = _read(
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109\r\n"
        "2023-11-16 18:15:48.6805900,10,1\r\n"
    )
    assert old.times_s == pytest.approx((0.0, 2.0, 4.314579), abs=1e-6)
    new = _read(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:01+00:00,2399,6\n"
    )
    assert new.times_s == pytest.approx((0.0, 0.99007), abs=1e-6)


def _functions_2019(*rows: dict[int, int]) -> str:
    head = "HashOwner,HashApp,HashFunction,Trigger," + ",".join(str(minute) for minute in range(1, 1441))
    lines = [
        ",".join(["o", "a", f"f{i}", "http", *(str(row.get(m, 0)) for m in range(1, 1441))])
        for i, row in enumerate(rows)
    ]
    return "\n".join([head, *lines]) + "\n"


def test_azure_functions_2019_sums_functions_per_minute():
    trace = _read(_functions_2019({1: 30, 1440: 60}, {1: 30}))
    assert trace.requests == pytest.approx(120.0)
    assert trace.profile is not None
    assert (trace.profile.at(0.0), trace.profile.at(60.0), trace.profile.at(86_399.0)) == (1.0, 0.0, 1.0)
    times = list(itertools.islice(Load(trace=trace, process="constant").times_s(0), 121))
    assert max(times[:59]) <= 60.0
    assert min(times[60:119]) >= 86_340.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("when,what\n1,2\n", "is of no known trace"),
        ("time_s\n1\n", "1 arrivals, expected at least two"),
        ("time_s\n1\nx\n", "line 3: time_s = 'x', expected a number"),
        ("time_s\n2\n1\n", "line 3: time_s = 1 after 2, expected rising"),
        ("time_s\n1\nnan\n", "line 3: time_s = nan"),
        ("time_s,rate_rps\n0,1\n60\n", "line 3: 1 columns, expected 2"),
        ("time_s,rate_rps\n0,1\n60,-1\n", "line 3: rate_rps = -1, expected a number of at least 0"),
        ("time_s,rate_rps\n0,0\n60,0\n", "no requests at all"),
        ("time_s,users\n0,1\n", "second column 'users'"),
        ("app,func,end_timestamp,duration\na,f,1.0,0.5\na,f,2.0,-0.5\n", "line 3: duration = -0.5"),
        ("app,func,end_timestamp,duration\na,f,1.0\n", "line 2: 3 columns, expected 4"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1,2\n", "line 2: TIMESTAMP = '2023-11-16'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:15:46.1,1,2\n", "line 2: TIMESTAMP"),
        ("HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,1,2\n", "2 minutes in the header, expected 1 to 1440"),
        (_functions_2019({1: 1}).replace(",http,1,0", ",http,1,-3"), "line 2: minute 2 = -3"),
        ('time_s\n1\n"2\n', "line 3"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named(text: str, told: str):
    with pytest.raises(TraceError) as caught:
        _read(text)
    assert told in str(caught.value)


def test_files_with_a_byte_order_mark_or_compressed_are_read_and_others_named(tmp_path: Path):
    plain, packed = tmp_path / "a.csv", tmp_path / "b.csv.gz"
    plain.write_bytes(b"\xef\xbb\xbftime_s\r\n0\r\n2\r\n")
    packed.write_bytes(gzip.compress(b"time_s\n0\n2\n"))
    assert load_arrivals(plain).times_s == load_arrivals(packed).times_s == (0.0, 2.0)
    for name, content in (
        ("c.csv", b"time_s\n\xff\xfe\n"),
        ("d.csv.gz", b"no gzip"),
        ("e.csv.gz", packed.read_bytes()[:-9]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TraceError, match=name):
            load_arrivals(tmp_path / name)
    with pytest.raises(TraceError, match="No such file"):
        load_arrivals(tmp_path / "none.csv")


def test_speed_and_scale_change_the_mean_and_say_so():
    trace = _read("time_s\n" + "".join(f"{t}\n" for t in range(101)))
    fast = Load(trace=trace, speed=10.0)
    assert fast.mean_rps == pytest.approx(10.0)
    assert list(fast.times_s(1))[:3] == [0.0, 0.1, 0.2]
    scaled_load = Load(trace=trace, speed=10.0, scale_to_rps=40.0)
    assert len(list(scaled_load.times_s(1))) == pytest.approx(404, abs=4)
    assert scaled_load.description == "trace t (own moments) at 10x scaled to 40 requests/s, open loop"


def test_a_schedule_can_be_gone_on_with_where_somebody_has_left_it():
    whole = list(itertools.islice(Load(shape="sine", period_s=50.0).times_s(3), 100))
    rest = list(itertools.islice(from_on(Load(shape="sine", period_s=50.0).times_s(3), 20.0), 10))
    assert rest == [time_s - 20.0 for time_s in whole if time_s >= 20.0][:10]
    assert list(from_on(iter([1.0, 2.0]), 5.0)) == []


def test_only_a_closed_loop_is_called_closed():
    closed = Load(concurrency=3)
    assert (closed.closed, closed.mean_rps, closed.description) == (True, None, "closed loop, 3 users")
    for load in (Load(), Load(process="gamma", smoothness=2.0), Load(shape="sine")):
        assert "open loop" in load.description
        assert "closed" not in load.description


def test_a_mix_has_its_shares_and_its_sum_is_checked():
    mix, rng = Mix(high_share=0.2, min_accuracies=((85.0, 0.3), (88.0, 0.1))), Random(1)
    drawn = [mix.draw(rng) for _ in range(20_000)]
    assert sum(one.priority == "high" for one in drawn) / 20_000 == pytest.approx(0.2, abs=0.02)
    assert sum(one.min_accuracy == 85.0 for one in drawn) / 20_000 == pytest.approx(0.3, abs=0.02)
    assert sum(one.min_accuracy is None for one in drawn) / 20_000 == pytest.approx(0.6, abs=0.02)
    with pytest.raises(ValueError, match="shares"):
        Mix(min_accuracies=((85.0, 0.6), (88.0, 0.6)))
