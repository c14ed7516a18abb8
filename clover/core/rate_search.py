"""The highest rate at which a service keeps a promise, in the manner of MLPerf's server scenario. Pure.

Each trial sends requests at one rate and is judged by the share of those that miss the limit: passed if its upper
bound at 99 % confidence is within the allowed share, failed if its lower bound is above it, undecided between. Rates
are doubled (or halved) from the first guess until one passed and one did not, then bisected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from clover.core.confidence import mlperf_samples, share_bounds
from clover.core.criteria import Condition
from clover.core.load_report import QUANTILES
from clover.core.tally import Tally
from clover.errors import ConfigurationError

#: One-sided confidence of a trial's verdict.
CONFIDENCE = 0.99

#: Doubling or halving further than this from the first guess tells that something else is wrong.
MAX_STEPS = 16

#: So many trials in a row that the generator itself was too late for end the search.
MAX_REFUSED = 3

Verdict = Literal["passed", "failed", "undecided", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What each trial is judged by.

    Attributes:
        text: As it was given.
        limit_ms: Latency from the due time that counts as missed above it; None takes the SLA (and every request
            without an answer misses).
        allowed: Share of requests that may miss, 0..1.
        samples: Requests that MLPerf's rules ask for at this quantile.
    """

    text: str
    limit_ms: float | None
    allowed: float
    samples: int

    def missed(self, tally: Tally) -> int:
        """Return how many requests of a trial missed."""
        return tally.bad if self.limit_ms is None else tally.latencies.above(self.limit_ms)


def promise_of(condition: Condition, *, option: str) -> Promise:
    """Return what a condition such as `late<5%` or `p99<200ms` allows.

    `late` here means every request without an answer in time (`not_ok` says the same): a service that refuses half of
    its requests keeps no promise.

    Raises:
        ConfigurationError: It is no upper limit of a latency quantile, or of the share of late requests.
    """
    upper = condition.compare in {"<", "<="}
    if upper and condition.metric in QUANTILES:
        quantile = QUANTILES[condition.metric]
        return Promise(
            text=condition.text, limit_ms=condition.limit, allowed=1.0 - quantile, samples=mlperf_samples(quantile)
        )
    share = condition.metric == "not_ok" or (condition.metric == "late" and condition.share)
    if upper and share and 0.0 < condition.limit < 100.0:
        allowed = condition.limit / 100.0
        return Promise(text=condition.text, limit_ms=None, allowed=allowed, samples=mlperf_samples(1.0 - allowed))
    raise ConfigurationError(
        f"{option} {condition.text!r}: expected an upper limit such as 'late<5%' or 'p99<200ms' to search by"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One rate that was tried.

    Attributes:
        rate_rps: What was asked for.
        sent, missed: Requests that count, and those that missed.
        low_pct, high_pct: Bounds of the true share of misses, each at 99 %.
        verdict: `refused` if the generator itself was too late.
        full: Whether it had as many samples as MLPerf's rules ask for.
    """

    rate_rps: float
    sent: int
    missed: int
    low_pct: float
    high_pct: float
    verdict: Verdict
    full: bool


def judge_trial(promise: Promise, rate_rps: float, tally: Tally, *, sla_ms: float) -> Trial:
    """Judge one trial."""
    missed, sent = promise.missed(tally), tally.sent
    low, high = share_bounds(missed, sent, CONFIDENCE)
    verdict: Verdict = "undecided"
    if tally.lag_refuses(sla_ms):
        verdict = "refused"
    elif sent and high <= promise.allowed:
        verdict = "passed"
    elif sent and low > promise.allowed:
        verdict = "failed"
    return Trial(
        rate_rps=rate_rps,
        sent=sent,
        missed=missed,
        low_pct=100.0 * low,
        high_pct=100.0 * high,
        verdict=verdict,
        full=sent >= promise.samples,
    )


def hopeless(promise: Promise, tally: Tally, *, samples: int) -> bool:
    """Return whether a trial that still runs cannot pass any more, whatever its remaining requests do."""
    return promise.missed(tally) > promise.allowed * samples


@dataclass(slots=True)
class RateSearch:
    """Which rate to try next.

    Attributes:
        first_rps: Where to begin.
        tolerance: Search until passed and not passed are this close, relative.
        passed_rps, missed_rps: Highest that passed, lowest that did not; None as long as there is none.
        trials: What was tried.
    """

    first_rps: float
    tolerance: float = 0.05
    passed_rps: float | None = None
    missed_rps: float | None = None
    trials: list[Trial] = field(default_factory=list[Trial])

    def next_rps(self) -> float | None:
        """Return the next rate in requests/s; None at the end."""
        refused = self._refused()
        if refused:
            # A machine that was busy for a moment says nothing about the service.
            return self.trials[-1].rate_rps if refused < MAX_REFUSED else None
        if not self.trials:
            return self.first_rps
        if self.passed_rps is None or self.missed_rps is None:
            if len(self.trials) > MAX_STEPS:
                return None
            return 2.0 * self.passed_rps if self.passed_rps else (self.missed_rps or self.first_rps) / 2.0
        if self.missed_rps <= self.passed_rps * (1.0 + self.tolerance):
            return None
        return math.sqrt(self.passed_rps * self.missed_rps)

    def _refused(self) -> int:
        """Return how many of the last trials in a row were refused."""
        return next(
            (n for n, trial in enumerate(reversed(self.trials)) if trial.verdict != "refused"), len(self.trials)
        )

    def observe(self, trial: Trial) -> None:
        """Take in a trial; one that could not be decided counts as not passed."""
        self.trials.append(trial)
        if trial.verdict == "passed":
            self.passed_rps = max(self.passed_rps or 0.0, trial.rate_rps)
        elif trial.verdict != "refused":
            self.missed_rps = min(self.missed_rps or math.inf, trial.rate_rps)

    @property
    def outcome(self) -> str:
        """What can be said at the end, in one line."""
        if self.trials and self.trials[-1].verdict == "refused":
            return "refused: the generator itself was too late at the last rate, again and again; try --processes"
        if self.passed_rps is None:
            return "no rate that was tried keeps the promise"
        if self.missed_rps is None:
            return "every rate that was tried keeps the promise: the highest is a lower bound"
        provisional = not all(trial.full or trial.verdict in {"failed", "refused"} for trial in self.trials)
        return "provisional: fewer samples than MLPerf's rules ask for" if provisional else "valid"
