"""What a load test says: quantiles with how sure they are, or why they cannot be told. Pure."""

from __future__ import annotations

from typing import Any

from clover.core.confidence import CONFIDENCE, least_samples, quantile_ranks
from clover.core.histogram import LatencyHistogram
from clover.core.outcome import ProducerOutcome
from clover.core.tally import MAX_LAG_SHARE, Tally

#: Quantiles that are told, by their names.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}

TOO_FEW = "too few samples"
UNBOUNDED = "without bound: too many were not answered"


def quantile(histogram: LatencyHistogram, q: float) -> dict[str, Any]:
    """Return one quantile with its 95 % interval; `ms` is null where `note` says why.

    A bound of the interval that falls among the unanswered is null: it is infinite.
    """
    ranks = quantile_ranks(histogram.count, q)
    if ranks is None:
        least = least_samples(q)
        note = f"{TOO_FEW}: {histogram.count}, expected at least {least}"
        return {"ms": None, "low_ms": None, "high_ms": None, "note": note}
    value_ms = histogram.quantile_ms(q)
    low_ms, high_ms = (histogram.at_rank_ms(rank) for rank in ranks)
    return {"ms": value_ms, "low_ms": low_ms, "high_ms": high_ms, "note": "" if value_ms is not None else UNBOUNDED}


def load_figures(tally: Tally, *, sla_p95_ms: float, closed: bool) -> dict[str, Any]:
    """Return the figures of a load test but for those of the whole deployment (energy from its ledger)."""
    sent, answered = tally.sent, tally.answered
    counts = {outcome.value: tally.outcomes[outcome] for outcome in ProducerOutcome}
    return {
        "loop": "closed" if closed else "open",
        "requests": {"sent": sent, **counts, "duplicate": tally.duplicates},
        "warmup_requests": tally.warmup,
        "resent_after_loss": tally.resent,
        "rate_rps": tally.rate_rps,
        "late_pct": _pct(tally.bad, sent),
        "goodput_pct": _pct(tally.outcomes[ProducerOutcome.OK], sent),
        "goodput_rps": _goodput(tally),
        "sla_p95_ms": sla_p95_ms,
        # The same two names as `up --json` has.
        "p95_ms": quantile(tally.latencies, 0.95)["ms"],
        "p95_unbounded": tally.latencies.unbounded(0.95),
        "latency_from_due": {name: quantile(tally.latencies, q) for name, q in QUANTILES.items()},
        "latency_from_send": {name: quantile(tally.send_latencies, q) for name, q in QUANTILES.items()},
        "confidence": CONFIDENCE,
        "accuracy_pct": tally.accuracy_sum_pct / answered if answered else None,
        "reply_energy_j_per_request": tally.energy_sum_j / answered if answered else None,
        "dispatch_lag": {
            "p50_ms": tally.lags.quantile_ms(0.5),
            "p99_ms": tally.lags.quantile_ms(0.99),
            "max_ms": tally.max_lag_ms,
            "limit_ms": MAX_LAG_SHARE * sla_p95_ms,
        },
        "send_delay_p99_ms": tally.send_delays.quantile_ms(0.99),
        **_verdict(tally, sla_p95_ms),
    }


def _verdict(tally: Tally, sla_ms: float) -> dict[str, Any]:
    """Return whether the figures may be used to judge the service."""
    if tally.sent == 0:
        return {"verdict": "refused", "verdict_reason": "no request was counted"}
    if tally.lag_refuses(sla_ms):
        lag_ms = tally.lags.quantile_ms(0.99)
        limit_ms = MAX_LAG_SHARE * sla_ms
        reason = f"the generator was late itself: p99 of its lag {lag_ms:.3g} ms, expected at most {limit_ms:.3g} ms"
        return {"verdict": "refused", "verdict_reason": f"{reason} (5 % of the SLA); try --processes"}
    return {"verdict": "valid", "verdict_reason": ""}


def _goodput(tally: Tally) -> float | None:
    rate = tally.rate_rps
    return None if rate is None else rate * tally.outcomes[ProducerOutcome.OK] / tally.sent


def _pct(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole else None


def hgrm(histogram: LatencyHistogram, *, closed: bool) -> str:
    """Return the percentile distribution in the text form that HdrHistogram's plotter reads.

    Columns: value in ms, percentile (0..1), count up to it, 1 / (1 - percentile). The unanswered have no row: the
    last percentile is the share of those that were answered.
    """
    loop = "closed" if closed else "open"
    lines = [
        f"#[loop = {loop}, unit = ms, unanswered = {histogram.unanswered}]",
        f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}",
        "",
    ]
    for value_ms, seen in histogram.steps():
        share = seen / histogram.count
        inverse = f"{1.0 / (1.0 - share):14.2f}" if share < 1.0 else f"{'inf':>14}"
        lines.append(f"{value_ms:12.3f} {share:14.12f} {seen:10d} {inverse}")
    steps = histogram.steps()
    answered = steps[-1][1] if steps else 0
    counts = [b - a for a, b in zip([0, *(n for _, n in steps)], [n for _, n in steps], strict=False)]
    mean = sum(v * n for (v, _), n in zip(steps, counts, strict=True)) / answered if answered else 0.0
    square = sum(n * (v - mean) ** 2 for (v, _), n in zip(steps, counts, strict=True)) / answered if answered else 0.0
    lines += [
        f"#[Mean    = {mean:12.3f}, StdDeviation   = {square**0.5:12.3f}]",
        f"#[Max     = {steps[-1][0] if steps else 0.0:12.3f}, Total count    = {histogram.count:12d}]",
        f"#[Buckets = {len(histogram.buckets):12d}, SubBuckets     = {1:12d}]",
    ]
    return "\n".join(lines) + "\n"
