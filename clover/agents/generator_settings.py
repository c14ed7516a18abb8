"""What a request generator is told at its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings:
    """What a generator is told at its start.

    Attributes:
        name: Producer name, unique in the deployment.
        application: Whom to ask.
        rate_rps: Mean arrival rate, above 0; what the arrival times have, if they are given.
        duration_s: How long requests become due after the warm-up; None until stopped.
        warmup_s: How long requests become due before that.
        count: How many requests become due after the warm-up at most; None for any number.
        concurrency: Users of a closed loop; 0 for an open loop.
        arrivals: What the load is, in words that say whether the loop is open or closed.
        begin_ms: When the arrivals begin, None for at once; for several generators that begin together.
        left_out_s: How much of the schedule was left out, because a generator before has sent it.
        block_s: Longest wait for replies in one call.
        flush_s: How often finished requests are written to the log.
        watch_s: How often to look whether the server still knows what it admitted.
    """

    name: str
    application: str
    rate_rps: float
    duration_s: float | None = None
    warmup_s: float = 0.0
    count: int | None = None
    concurrency: int = 0
    arrivals: str = "poisson, open loop"
    begin_ms: float | None = None
    left_out_s: float = 0.0
    block_s: float = 1.0
    flush_s: float = 0.25
    watch_s: float = 1.0
