"""What a load test says, how sure it is, how accounts add up, and conditions on them."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clover.core.confidence import (
    binomial_cdf,
    binomial_quantile,
    least_samples,
    mlperf_samples,
    quantile_ranks,
    share_bounds,
)
from clover.core.criteria import METRICS, judge, parse_condition
from clover.core.load_report import hgrm, load_figures
from clover.core.outcome import ProducerOutcome
from clover.core.rate_search import Promise, RateSearch, judge_trial, promise_of
from clover.core.tally import Ended, Tally
from clover.errors import ConfigurationError

_SLA_MS = 100.0


def _ended(latency_ms: float | None, *, due_ms: float = 0.0, lag_ms: float = 0.0, wait_ms: float = 0.0) -> Ended:
    outcome = ProducerOutcome.LOST
    if latency_ms is not None:
        outcome = ProducerOutcome.OK if latency_ms <= _SLA_MS else ProducerOutcome.LATE
    return Ended(
        due_ms=due_ms, made_ms=due_ms + lag_ms, sent_ms=due_ms + lag_ms + wait_ms,
        received_ms=None if latency_ms is None else due_ms + latency_ms,
        outcome=outcome, accuracy_pct=80.0, energy_j=2.0,
    )  # fmt: skip


def _tally(latencies: list[float | None], **more: float) -> Tally:
    tally = Tally()
    for number, latency_ms in enumerate(latencies):
        tally.add(_ended(latency_ms, due_ms=10.0 * number, **more))
    return tally


# --- confidence


def test_sample_counts_are_those_of_the_rules_of_mlperf():
    assert [mlperf_samples(q) for q in (0.9, 0.95, 0.99)] == [23_886, 50_425, 262_742]


@given(n=st.integers(1, 400), p=st.floats(0.01, 0.99), probability=st.floats(0.01, 0.99))
def test_binomial_quantiles_against_the_sum_of_its_terms(n: int, p: float, probability: float):
    def cdf(k: int) -> float:
        return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    k = binomial_quantile(n, p, probability)
    assert cdf(k) >= probability - 1e-9
    assert k == 0 or cdf(k - 1) < probability + 1e-9
    assert binomial_cdf(n, p, k) == pytest.approx(min(1.0, cdf(k)), abs=1e-9)


def test_bounds_of_shares_are_those_of_clopper_and_pearson():
    # Exact 95 % two-sided interval of 5 in 100, as printed in tables: 1.64 % to 11.28 %.
    assert share_bounds(5, 100, 0.975) == pytest.approx((0.0164, 0.1128), abs=5e-5)
    low, high = share_bounds(0, 299, 0.99)
    assert (low, high) == (0.0, pytest.approx(1.0 - 0.01 ** (1 / 299)))
    assert share_bounds(0, 0, 0.99) == (0.0, 1.0)


def test_the_interval_of_a_quantile_covers_it_as_often_as_it_says():
    rng, hits = Random(1), 0
    ranks = quantile_ranks(200, 0.95)
    assert ranks is not None
    for _ in range(1000):
        found = sorted(rng.expovariate(1.0) for _ in range(200))
        hits += found[ranks[0] - 1] <= -math.log(0.05) <= found[ranks[1] - 1]
    # 95 % at least; three standard deviations of 1000 trials are 2 %.
    assert hits >= 930


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_fewer_samples_than_an_interval_needs_are_said(q: float):
    least = least_samples(q)
    assert quantile_ranks(least, q) is not None
    assert quantile_ranks(least - 1, q) is None


# --- figures


def test_three_hundred_requests_have_no_p99_9_but_a_p95_with_an_interval():
    figures = load_figures(_tally([float(x) for x in range(1, 301)]), sla_p95_ms=_SLA_MS, closed=False)
    due = figures["latency_from_due"]
    assert due["p99.9"]["ms"] is None
    assert due["p99.9"]["note"] == "too few samples: 300, expected at least 3688"
    assert due["p95"]["low_ms"] < due["p95"]["ms"] < due["p95"]["high_ms"]
    assert due["p95"]["ms"] == pytest.approx(285.0, rel=0.001)
    assert figures["requests"] == {
        "sent": 300, "ok": 100, "late": 200, "expired": 0, "overloaded": 0, "failed": 0, "lost": 0, "duplicate": 0
    }  # fmt: skip
    assert figures["goodput_pct"] == pytest.approx(100 / 3)
    assert figures["rate_rps"] == pytest.approx(100.0)
    assert figures["accuracy_pct"] == pytest.approx(80.0)


def test_the_unanswered_are_infinitely_late():
    figures = load_figures(_tally([10.0] * 90 + [None] * 10), sla_p95_ms=_SLA_MS, closed=False)
    p95 = figures["latency_from_due"]["p95"]
    assert (p95["ms"], figures["p95_unbounded"]) == (None, True)
    assert p95["note"].startswith("without bound")
    assert figures["late_pct"] == 10.0
    judged = judge(parse_condition("p95>1s", option="--fail-if"), figures)
    assert judged.holds


def test_latency_from_due_counts_what_latency_from_send_leaves_out():
    figures = load_figures(_tally([60.0] * 100, wait_ms=50.0), sla_p95_ms=_SLA_MS, closed=False)
    assert figures["latency_from_due"]["p50"]["ms"] == pytest.approx(60.0, rel=0.001)
    assert figures["latency_from_send"]["p50"]["ms"] == pytest.approx(10.0, rel=0.001)
    assert figures["send_delay_p99_ms"] == pytest.approx(50.0, rel=0.001)


@pytest.mark.parametrize(("lag_ms", "verdict"), [(4.9, "valid"), (5.1, "refused")])
def test_a_generator_that_is_late_itself_gives_no_verdict(lag_ms: float, verdict: str):
    figures = load_figures(_tally([50.0] * 100, lag_ms=lag_ms), sla_p95_ms=_SLA_MS, closed=False)
    assert figures["verdict"] == verdict
    assert figures["dispatch_lag"]["limit_ms"] == 5.0
    assert load_figures(Tally(), sla_p95_ms=_SLA_MS, closed=False)["verdict"] == "refused"


_LATENCIES = st.lists(st.one_of(st.none(), st.floats(0.01, 1e5)), max_size=60)


@settings(max_examples=50)
@given(parts=st.lists(_LATENCIES, min_size=1, max_size=4))
def test_accounts_of_several_generators_add_up_to_that_of_one(parts: list[list[float | None]]):
    tallies = [Tally.from_data(json.loads(json.dumps(_tally(part).as_data()))) for part in parts]
    merged = tallies[0].plus(tallies[1:])
    whole = Tally()
    for part in parts:
        for number, latency_ms in enumerate(part):
            whole.add(_ended(latency_ms, due_ms=10.0 * number))
    first, second = (load_figures(t, sla_p95_ms=_SLA_MS, closed=False) for t in (merged, whole))
    for figures in (first, second):
        for name in ("accuracy_pct", "reply_energy_j_per_request"):
            figures[name] = pytest.approx(figures[name]) if figures is second else figures[name]
    assert first == second


def test_the_text_form_of_the_histogram_says_what_loop_it_was():
    text = hgrm(_tally([10.0, 20.0, None]).latencies, closed=True)
    lines = text.splitlines()
    assert lines[0] == "#[loop = closed, unit = ms, unanswered = 1]"
    rows = [line.split() for line in lines if line and line.split()[0][0].isdigit()]
    assert [(float(v), int(n)) for v, _, n, _ in rows] == [
        (pytest.approx(10.0, rel=1e-3), 1), (pytest.approx(20.0, rel=1e-3), 2)
    ]  # fmt: skip
    assert float(rows[-1][1]) == pytest.approx(2 / 3)
    assert "loop = open" in hgrm(Tally().latencies, closed=False)


# --- conditions


@pytest.mark.parametrize(
    ("text", "metric", "limit", "share"),
    [
        ("p95>180ms", "p95", 180.0, False),
        (" p99.9 >= 1.5 s ", "p99.9", 1500.0, False),
        ("send.p99.9>2", "send.p99.9", 2.0, False),
        ("late>5%", "late", 5.0, True),
        ("lost>0", "lost", 0.0, False),
        ("carbon>3mg", "carbon", 0.003, False),
        ("lag.max>1e3ms", "lag.max", 1000.0, False),
        ("GOODPUT<95", "goodput", 95.0, False),
    ],
)
def test_conditions_are_read(text: str, metric: str, limit: float, share: bool):
    found = parse_condition(text, option="--fail-if")
    assert (found.metric, found.limit, found.share) == (metric, pytest.approx(limit), share)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected METRIC OPERATOR NUMBER"),
        ("p95", "expected METRIC OPERATOR NUMBER"),
        ("p95=180ms", "expected METRIC OPERATOR NUMBER"),
        ("p95>fast", "expected METRIC OPERATOR NUMBER"),
        ("p42>1ms", "metric 'p42' is unknown, expected one of p50"),
        ("p95>180%", "unit '%' does not go with p95, expected ms, s"),
        ("lost>1ms", "unit 'ms' does not go with lost"),
        ("late>-1", "is below 0"),
    ],
)
def test_what_is_no_condition_is_said(text: str, told: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_condition(text, option="--fail-if")
    assert f"--fail-if {text!r}" in str(caught.value)
    assert told in str(caught.value)


def test_every_metric_can_be_judged():
    figures: dict[str, Any] = load_figures(_tally([50.0] * 4000 + [150.0] * 100), sla_p95_ms=_SLA_MS, closed=False)
    figures |= {"energy_j_per_request": 3.0, "footprint_g_per_request": 0.002}
    for metric in METRICS:
        assert judge(parse_condition(f"{metric}>=0", option="x"), figures).holds is True, metric
    share = judge(parse_condition("late>2%", option="x"), figures)
    assert (share.value, share.holds) == (pytest.approx(100 / 41), True)
    assert judge(parse_condition("late<100", option="x"), figures).holds is False
    few = load_figures(_tally([50.0] * 10), sla_p95_ms=_SLA_MS, closed=False)
    judged = judge(parse_condition("p95>1", option="x"), few)
    assert (judged.holds, judged.why) == (None, "too few samples: 10, expected at least 72")


# --- search


def _promise(text: str) -> Promise:
    return promise_of(parse_condition(text, option="--find-max"), option="--find-max")


def test_promises_that_can_be_searched_for():
    assert (_promise("late<5%").samples, _promise("p99<200ms").samples) == (50_425, 262_742)
    assert _promise("p95<=150ms").limit_ms == 150.0
    for text in ("late>5%", "lost<1", "accuracy<90", "late<5", "not_ok<100%"):
        with pytest.raises(ConfigurationError, match="--find-max"):
            _promise(text)


def test_few_samples_are_undecided_and_a_late_generator_refuses():
    promise = _promise("late<5%")
    assert judge_trial(promise, 1.0, _tally([50.0] * 50), sla_ms=_SLA_MS).verdict == "undecided"
    assert judge_trial(promise, 1.0, _tally([50.0] * 90), sla_ms=_SLA_MS).verdict == "passed"
    assert judge_trial(promise, 1.0, _tally([50.0] * 80 + [150.0] * 20), sla_ms=_SLA_MS).verdict == "failed"
    assert judge_trial(promise, 1.0, _tally([50.0] * 90, lag_ms=9.0), sla_ms=_SLA_MS).verdict == "refused"
    assert not judge_trial(promise, 1.0, _tally([50.0] * 90), sla_ms=_SLA_MS).full


def test_a_trial_that_was_refused_is_tried_again_but_not_for_ever():
    promise, search = _promise("late<5%"), RateSearch(first_rps=4.0, tolerance=0.5)
    late, good = (judge_trial(promise, 4.0, _tally([50.0] * 90, lag_ms=lag), sla_ms=_SLA_MS) for lag in (9.0, 0.1))
    search.observe(late)
    assert search.next_rps() == 4.0
    search.observe(good)
    assert search.next_rps() == 8.0
    for _ in range(3):
        assert search.next_rps() is not None
        search.observe(late)
    assert search.next_rps() is None
    assert search.outcome.startswith("refused")


@settings(deadline=None, max_examples=40)
@given(true_rps=st.floats(0.3, 3000.0), first_rps=st.floats(0.5, 500.0))
def test_the_search_ends_at_the_highest_rate_that_passes(true_rps: float, first_rps: float):
    promise, search = _promise("late<5%"), RateSearch(first_rps=first_rps, tolerance=0.05)
    while (rate := search.next_rps()) is not None:
        latency_ms = 50.0 if rate <= true_rps else 150.0
        search.observe(judge_trial(promise, rate, _tally([latency_ms] * 100), sla_ms=_SLA_MS))
        assert len(search.trials) < 40
    assert search.passed_rps is not None
    assert search.missed_rps is not None
    assert search.passed_rps <= true_rps < search.missed_rps <= search.passed_rps * 1.05
    assert search.outcome.startswith("provisional")
