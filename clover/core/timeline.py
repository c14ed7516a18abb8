"""A figure that changes in steps, and its mean over any interval."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import pairwise


class StepFunction:
    """Values that each hold from a moment until the next one begins; before the first, the first holds."""

    def __init__(self, steps: Iterable[tuple[float, float]] = ()) -> None:
        self._from: list[float] = []
        self._values: list[float] = []
        for from_s, value in steps:
            self.add(from_s, value)

    def add(self, from_s: float, value: float) -> None:
        """Let a value hold from a moment on; a moment that is not after the last one replaces that one's value."""
        if self._from and from_s <= self._from[-1]:
            self._values[-1] = value
            return
        self._from.append(from_s)
        self._values.append(value)

    def __bool__(self) -> bool:
        return bool(self._from)

    def at(self, at_s: float) -> float:
        """Return the value at a moment; raises ValueError if there is none at all."""
        if not self._from:
            raise ValueError("a step function without steps has no value")
        return self._values[max(0, bisect_right(self._from, at_s) - 1)]

    def mean(self, from_s: float, to_s: float) -> float:
        """Return the time-weighted mean over an interval; of an empty one, the value at its end."""
        if to_s <= from_s:
            return self.at(to_s)
        inside = self._from[bisect_right(self._from, from_s) : bisect_left(self._from, to_s)]
        cuts = [from_s, *inside, to_s]
        return sum(self.at(a) * (b - a) for a, b in pairwise(cuts)) / (to_s - from_s)

    def since(self, at_s: float) -> tuple[tuple[float, float], ...]:
        """Return the step in force at a moment and all later ones."""
        first = max(0, bisect_right(self._from, at_s) - 1)
        return tuple(zip(self._from[first:], self._values[first:], strict=True))

    def forget_before(self, at_s: float) -> None:
        """Drop steps that ended before a moment."""
        first = max(0, bisect_right(self._from, at_s) - 1)
        del self._from[:first], self._values[:first]
