"""Options that say when requests are due, for every command that sends some, and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli import completion
from cli.options import check_positive, parse_duration
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.core.schedule import Arrivals, Load

Process: TypeAlias = Annotated[
    str,
    typer.Option(
        "--arrivals",
        help="poisson, constant or gamma.",
        envvar="CLOVER_ARRIVALS",
        autocompletion=completion.processes,
    ),
]
Smoothness: TypeAlias = Annotated[
    float, typer.Option("--smoothness", help="gamma: below 1 burstier than Poisson, above 1 smoother.")
]
Shape: TypeAlias = Annotated[
    str,
    typer.Option(
        "--shape",
        help="How the rate moves: flat, sine, step, spike or diurnal.",
        envvar="CLOVER_SHAPE",
        autocompletion=completion.shapes,
    ),
]
Period: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--period",
        parser=parse_duration,
        metavar="DURATION",
        help="Of the shape (default: the duration, else 1h).",
    ),
]
Peak: TypeAlias = Annotated[float | None, typer.Option("--peak", help="Of the shape: highest rate over the mean.")]
LoadTrace: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--load-trace",
        help="Arrivals of the past: a CSV file of ours or of Azure (docs/load.md).",
        envvar="CLOVER_LOAD_TRACE",
    ),
]
Speed: TypeAlias = Annotated[
    str, typer.Option("--speed", help="How many times as fast --load-trace and --load-profile run, such as 60x.")
]
ScaleTo: TypeAlias = Annotated[
    float | None,
    typer.Option("--scale-to", help="Mean rate that --load-trace and --load-profile are brought to, requests/s."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalChoice:
    """When requests are due, as it was asked for.

    Attributes:
        process, smoothness: Of the gaps between requests.
        shape, period_s, peak: How the rate moves; the period defaults to the duration.
        trace: File of arrivals of the past, instead of a shape.
        speed: Such as `60x`.
        scale_to_rps: Mean rate that the trace is brought to.
    """

    process: str = "poisson"
    smoothness: float = 1.0
    shape: str = "flat"
    period_s: float | None = None
    peak: float | None = None
    trace: Path | None = None
    speed: str = "1x"
    scale_to_rps: float | None = None

    def check(self, *, rate: float | None, profiled: bool = False) -> None:
        """Refuse what contradicts itself or cannot be, before anything is started; does not read the trace.

        Speed and scale may also be for a load that is `profiled`.

        Raises:
            ConfigurationError: With the option, its value and what was expected.
        """
        from random import Random  # noqa: PLC0415 - keeps --help fast

        from clover.core.arrivals import shaped, unit_gaps  # noqa: PLC0415

        for name, value in (("--rate", rate), ("--scale-to", self.scale_to_rps)):
            if value is not None:
                check_positive(name, value)
        if self.trace is not None and self.shape != "flat":
            raise ConfigurationError("--load-trace and --shape: expected one of them")
        if self.trace is not None and rate is not None:
            raise ConfigurationError(
                "--rate and --load-trace: expected one of them", hint="bring a trace to a rate with --scale-to"
            )
        speed = self._speed
        if self.trace is None and not profiled and (speed != 1.0 or self.scale_to_rps is not None):
            raise ConfigurationError("--speed and --scale-to: expected a --load-trace with them")
        next(unit_gaps(self.process, Random(0), smoothness=self.smoothness))  # noqa: S311 - only checked
        shaped(self.shape, rate_rps=1.0, period_s=self.period_s or 1.0, peak=self.peak)

    def arrivals(self, *, rate_rps: float, duration_s: float | None, concurrency: int = 0) -> Arrivals:
        """Return the arrivals at a mean rate."""
        from clover.core.schedule import Arrivals  # noqa: PLC0415 - keeps --help fast

        return Arrivals(
            process=self.process,
            smoothness=self.smoothness,
            rate_rps=rate_rps,
            shape=self.shape,
            period_s=self.period_s or duration_s or 3600.0,
            peak=self.peak,
            speed=self._speed,
            scale_to_rps=self.scale_to_rps,
            concurrency=concurrency,
        )

    def load(self, *, rate_rps: float, duration_s: float | None) -> Load:
        """Return the whole load; reads the trace.

        Raises:
            TraceError: The trace cannot be read; the message names the line.
        """
        from clover.arrivals import load_arrivals  # noqa: PLC0415 - keeps --help fast

        trace = load_arrivals(self.trace) if self.trace is not None else None
        return self.arrivals(rate_rps=rate_rps, duration_s=duration_s).with_trace(trace)

    def arguments(self, *, duration_s: float | None) -> Sequence[str]:
        """Return the options of `clover agent generator` that say the same."""
        given: list[tuple[str, Any]] = [
            ("--arrivals", self.process),
            ("--smoothness", self.smoothness),
            ("--shape", self.shape),
            # One that is started again has less time left, but the period stays.
            ("--period", f"{self.period_s or duration_s or 3600.0:.9f}s"),
            ("--peak", self.peak),
            ("--load-trace", self.trace.resolve() if self.trace is not None else None),
            ("--speed", self.speed if self.trace is not None else None),
            ("--scale-to", self.scale_to_rps if self.trace is not None else None),
        ]
        return [str(part) for name, value in given if value is not None for part in (name, value)]

    @property
    def files(self) -> list[tuple[str, Path]]:
        """Files that a run depends on, with what they are."""
        return [("arrival trace", self.trace)] if self.trace is not None else []

    @property
    def _speed(self) -> float:
        try:
            speed = float(self.speed.removesuffix("x"))
        except ValueError:
            raise ConfigurationError(f"--speed = {self.speed!r}: expected a number such as 60x") from None
        return check_positive("--speed", speed)
