"""Energy counters that wrap around or begin anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advance:
    """What a counter says was used since its last reading.

    Attributes:
        energy_j: Joules.
        reset: It began anew in between, so that what it had counted until then since the last reading is lost.
    """

    energy_j: float
    reset: bool = False


class CounterTracker:
    """Turns readings of a counter into differences.

    Args:
        range_j: Where it wraps around; None if it does not, so that a fall means that it began anew.
        last_j: A reading to go on from.
    """

    def __init__(self, range_j: float | None = None, *, last_j: float | None = None) -> None:
        self._range_j = range_j
        self._last_j = last_j

    @property
    def last_j(self) -> float | None:
        """The newest reading."""
        return self._last_j

    def advance(self, counter_j: float) -> Advance | None:
        """Take a reading in; None if it is the first.

        A counter that wraps must be read more than once per round; one round is added when it has fallen.
        """
        last, self._last_j = self._last_j, counter_j
        if last is None:
            return None
        if counter_j >= last:
            return Advance(counter_j - last)
        if self._range_j is not None:
            return Advance(counter_j - last + self._range_j)
        return Advance(counter_j, reset=True)
