"""Options that say where carbon intensity comes from, and what they build."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cli.options import duration, option
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.carbon.port import IntensityFeed
    from clover.core.clock import Clock
    from clover.core.intensity_trace import IntensityTrace

#: What stands in when a live source and all that it said are gone: the original's constant, marked as assumed.
DEFAULT_FALLBACK = "constant:250"

SourceName: TypeAlias = Annotated[
    str,
    option(
        "--carbon",
        "Where the grid's intensity comes from: trace, neso, energidataservice, electricitymaps, electricitymaps-v4, "
        "watttime-average, eia, eia-direct.",
    ),
]
Url: TypeAlias = Annotated[str | None, option("--carbon-url", "Address of the source, for a proxy or a stub.")]
Zone: TypeAlias = Annotated[str | None, option("--carbon-zone", "Grid zone in the source's own words.")]
Fallback: TypeAlias = Annotated[
    str,
    option(
        "--carbon-fallback",
        "When everything else fails: constant:<gCO2e/kWh>, a trace (by hour of the UTC day), or none.",
    ),
]
Poll: TypeAlias = Annotated[
    float | None, duration("--carbon-poll", "How often to ask (default: the source's own interval).")
]
MaxAge: TypeAlias = Annotated[
    float | None,
    duration(
        "--carbon-max-age",
        "Age of the newest live figure from which on plans stay as they are (default: by source).",
    ),
]
Replay: TypeAlias = Annotated[
    str,
    option("--replay", "Replay of a trace: step or linear between rows, wrap or stop at its end, as step,wrap."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonChoice:
    """Where the intensity comes from.

    Attributes:
        source: `trace` or the name of a live source.
        trace, hour_s, replay: For a replay.
        url, zone, fallback, poll_s, max_age_s: For a live source.
    """

    source: str = "trace"
    trace: str = "ciso-march"
    hour_s: float = 3600.0
    replay: str = "step,wrap"
    url: str | None = None
    zone: str | None = None
    fallback: str = DEFAULT_FALLBACK
    poll_s: float | None = None
    max_age_s: float | None = None

    def arguments(self) -> Sequence[str]:
        """Return the options of `clover agent carbon` that say the same."""
        given = [
            ("--carbon", self.source),
            ("--trace", self.trace),
            ("--replay", self.replay),
            ("--carbon-url", self.url),
            ("--carbon-zone", self.zone),
            ("--carbon-fallback", self.fallback),
        ]
        spans = [("--hour", self.hour_s), ("--carbon-poll", self.poll_s), ("--carbon-max-age", self.max_age_s)]
        told = [(name, value) for name, value in given if value is not None]
        told += [(name, f"{seconds:.9f}s") for name, seconds in spans if seconds is not None]
        return [part for pair in told for part in pair]

    def check(self) -> None:
        """Refuse what cannot work before anything is started; asks nobody."""
        from clover.agents.system_clock import SystemClock  # noqa: PLC0415 - keeps --help fast

        self.feed(SystemClock(), cache_folder=None)

    def feed(self, clock: Clock, *, cache_folder: Path | None, seed: int = 0) -> IntensityFeed:
        """Build what the carbon monitor reads."""
        from clover.carbon.replay import TraceReplay  # noqa: PLC0415 - keeps --help fast

        if self.source == "trace":
            return TraceReplay(self.replayed(), hour_s=self.hour_s)
        from random import Random  # noqa: PLC0415 - only live sources need these

        from clover.carbon.chain import SourceChain, chain_settings  # noqa: PLC0415
        from clover.carbon.past import ReadingCache  # noqa: PLC0415
        from clover.carbon.registry import make_source  # noqa: PLC0415

        source = make_source(self.source, zone=self.zone, url=self.url, clock=clock)
        if source.traits.kind == "marginal":
            raise ConfigurationError(
                f"--carbon {self.source} gives marginal rates: expected an average for the ledger",
                hint="watttime-average is the average of the same provider; `clover carbon now` shows marginal rates",
            )
        traits = source.traits
        # What a stub or a proxy said is not mixed with what the source itself says.
        where = f"-{zlib.crc32(self.url.encode()):08x}" if self.url else ""
        name = f"{traits.name}-{traits.zone}-{traits.factor}{where}.json".replace(":", "-").replace("/", "-")
        return SourceChain(
            source,
            clock=clock,
            rng=Random(f"{seed}/carbon-source"),  # noqa: S311 - jitter
            settings=chain_settings(source, poll_s=self.poll_s, stale_s=self.max_age_s),
            fallback=self.last_resort(),
            cache=ReadingCache(cache_folder / "carbon" / name) if cache_folder is not None else None,
        )

    def replayed(self) -> IntensityTrace:
        """Load the trace with the way in which it is replayed."""
        from clover.catalog import load_trace  # noqa: PLC0415 - keeps --help fast

        between, _, end = self.replay.partition(",")
        end = end or "wrap"
        if (between != "step" and between != "linear") or (end != "wrap" and end != "stop"):  # noqa: PLR1714 - narrows
            raise ConfigurationError(f"--replay = {self.replay!r}: expected step or linear, then ,wrap or ,stop")
        return replace(load_trace(self.trace), interpolation=between, after_end=end)

    def last_resort(self) -> IntensityTrace | None:
        """Load the fixed fallback."""
        from clover.catalog import load_trace  # noqa: PLC0415 - keeps --help fast

        return None if self.fallback == "none" else load_trace(self.fallback)
