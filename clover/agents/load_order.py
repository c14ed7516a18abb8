"""What one generator process of a load test is told, as one line of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from clover.arrivals import load_arrivals
from clover.core.schedule import Arrivals, Load, Mix


class LoadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One load test, or one process's part of it.

    Attributes:
        deployment: Whom to load; the server's URL comes by the environment.
        name: Producer name, unique.
        application: Name of the application.
        backend: Of its nodes: `sim` needs no inputs.
        app: Application as it can be loaded for its inputs: a name or a file.
        inputs: File or folder of what is asked; None for samples.
        arrivals: When requests are due.
        trace: File of arrivals of the past, None without.
        mix: What requests ask for.
        seed: Of schedule, mix and ids.
        index, of: Which part of the schedule this is.
        warmup_s, duration_s, count: How long; the count is that of all parts together.
        requests_file: Where each request is written to, None for nowhere.
    """

    deployment: str
    name: str
    application: str
    backend: str
    app: str = ""
    inputs: str | None = None
    arrivals: Arrivals = Arrivals()
    trace: str | None = None
    mix: Mix = Mix()
    seed: int = 0
    index: int = 0
    of: int = 1
    warmup_s: float = 0.0
    duration_s: float | None = None
    count: int | None = None
    requests_file: str | None = None

    def load(self) -> Load:
        """Return the whole load, of all parts; reads the trace.

        Raises:
            ConfigurationError: The trace cannot be read.
        """
        return self.arrivals.with_trace(load_arrivals(Path(self.trace)) if self.trace else None)

    def times_s(self, load: Load) -> Iterator[float]:
        """Return when this part's requests are due."""
        return load.share(self.seed, self.index, self.of)

    def rng(self, what: str) -> Random:
        """Return this part's own source of chance for one purpose."""
        return Random(f"{self.seed}/{what}/{self.index}")  # noqa: S311 - load

    def at_rate(self, rate_rps: float, **changes: Any) -> LoadOrder:
        """Return the same at another mean rate."""
        return msgspec.structs.replace(self, arrivals=replace(self.arrivals, rate_rps=rate_rps), **changes)

    def parts(self, of: int) -> list[LoadOrder]:
        """Return the parts of so many processes; one alone is the whole."""
        return [self] if of == 1 else [self.part(index, of) for index in range(of)]

    def part(self, index: int, of: int, **changes: Any) -> LoadOrder:
        """Return one of several parts: its own name, its share of the users and of the count."""
        return msgspec.structs.replace(
            self,
            index=index,
            of=of,
            name=f"{self.name}-{index + 1}",
            arrivals=replace(self.arrivals, concurrency=_share(self.arrivals.concurrency, index, of)),
            count=None if self.count is None else _share(self.count, index, of),
            **changes,
        )


def _share(whole: int, index: int, of: int) -> int:
    return whole // of + (index < whole % of)
