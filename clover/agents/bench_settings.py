"""How much a bench measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """How much to measure.

    Attributes:
        requests: Answers per instance that count; a batch is one answer.
        warm_up: Answers per instance before those, which do not.
        limit_s: A configuration ends after this long, if every instance has five answers that count.
        think_s: Mean pause of a client between two answers, exponential. A processor that has paused is slower: its
            caches hold what others did meanwhile, and it has to wake up. Service is rarely asked for back to back.
        batch_size: Requests that are answered together.
        seed: Of the pauses.
    """

    requests: int = 40
    warm_up: int = 3
    limit_s: float = 60.0
    think_s: float = 0.0
    batch_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("requests", "limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected a number above 0")
        for name in ("warm_up", "think_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: expected 1 or more")
