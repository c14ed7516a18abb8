"""Options that say which load a controller knows in advance, and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from cli.arrival_options import ArrivalChoice
from cli.options import option
from clover.errors import ConfigurationError

if TYPE_CHECKING:
    from clover.core.arrivals import RateProfile
    from clover.core.load_profile import Begins

LoadProfileFile: TypeAlias = Annotated[
    Path | None,
    option(
        "--load-profile",
        "Load that is known in advance, so that GPUs wake before it comes: a CSV file of rates as --load-trace takes.",
    ),
]
LoadProfileBegins: TypeAlias = Annotated[
    str | None,
    option(
        "--load-profile-begins",
        "When the profile's time is 0: midnight (UTC, each day), or generator (where a generator's schedule began).",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProfileChoice:
    """Which load is known in advance.

    Attributes:
        file: Rates over time; None if nothing is known.
        begins: `midnight` or `generator`; None takes `default_begins`.
        default_begins: Of the command.
        speed, scale_to_rps: As those of a trace of arrivals.
    """

    file: Path | None = None
    begins: str | None = None
    default_begins: str = "midnight"
    speed: str = "1x"
    scale_to_rps: float | None = None

    @property
    def from_when(self) -> Begins:
        """When its time is 0; only one that `rates` has accepted is one of the known."""
        return cast("Begins", self.begins or self.default_begins)

    def rates(self) -> RateProfile | None:
        """Read the file; None if there is none.

        Raises:
            ConfigurationError: Options that do not go together, with their values and what was expected.
            TraceError: The file cannot be read, or has no rates; the message names the line.
        """
        from clover.core.load_profile import known_rates  # noqa: PLC0415 - keeps --help fast

        if self.file is None:
            if self.begins is not None:
                raise ConfigurationError(f"--load-profile-begins = {self.begins!r}: expected a --load-profile with it")
            return None
        # The same file with the same options is the load that a generator sends.
        choice = ArrivalChoice(trace=self.file, speed=self.speed, scale_to_rps=self.scale_to_rps)
        choice.check(rate=None)
        return known_rates(choice.load(rate_rps=1.0, duration_s=None), self.from_when)

    def arguments(self) -> Sequence[str]:
        """Return the options of `clover agent controller` that say the same."""
        if self.file is None:
            return []
        given: list[tuple[str, Any]] = [
            ("--load-profile", self.file.resolve()),
            ("--load-profile-begins", self.from_when),
            ("--speed", self.speed),
            ("--scale-to", self.scale_to_rps),
        ]
        return [str(part) for name, value in given if value is not None for part in (name, value)]

    @property
    def files(self) -> list[tuple[str, Path]]:
        """Files that a run depends on, with what they are."""
        return [("load profile", self.file)] if self.file is not None else []
