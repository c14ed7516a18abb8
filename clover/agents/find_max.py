"""Searches the highest rate that keeps a promise: one trial after the other, each judged, each told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clover.agents.load_order import LoadOrder
from clover.core.rate_search import Promise, RateSearch, Trial, hopeless, judge_trial
from clover.core.tally import Tally

RunTrial = Callable[[LoadOrder, Callable[[Tally], bool]], Awaitable[Tally]]
"""Runs one trial; the callback takes in the account so far and says whether to end the sending."""


async def find_max(
    order: LoadOrder,
    search: RateSearch,
    promise: Promise,
    *,
    samples: int,
    sla_ms: float,
    run: RunTrial,
    tell: Callable[[Trial], None],
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    """Try rates until the search is over or somebody stops it; return what came of it.

    A trial ends early only when it cannot pass any more, whatever its remaining requests do: looking at it meanwhile
    costs no confidence.

    Args:
        order: The load, whose rate and count are replaced.
        search: Chooses rates.
        promise: What each trial is judged by.
        samples: Requests per trial after its warm-up.
        sla_ms: Agreement that the generator's own lag is compared with.
        run: Runs a trial.
        tell: Takes each trial in.
        stopped: Asked after each trial whether to end.
    """
    while (rate_rps := search.next_rps()) is not None:
        number = len(search.trials) + 1
        trial_order = order.at_rate(rate_rps, name=f"{order.name}-t{number}", count=samples, seed=order.seed + number)
        tally = await run(trial_order, lambda so_far: hopeless(promise, so_far, samples=samples))
        if stopped():
            break
        trial = judge_trial(promise, rate_rps, tally, sla_ms=sla_ms)
        search.observe(trial)
        tell(trial)
    return {
        "condition": promise.text,
        "max_rate_rps": search.passed_rps,
        "lowest_missed_rps": search.missed_rps,
        "tolerance": search.tolerance,
        "outcome": "interrupted" if stopped() else search.outcome,
        "samples": samples,
        "samples_by_mlperf_rules": promise.samples,
        "confidence": 0.99,
        "trials": [msgspec.to_builtins(trial) for trial in search.trials],
    }
