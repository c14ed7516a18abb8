"""Pauses between tries of something that is not there at present."""

from __future__ import annotations

from random import Random


class Backoff:
    """Decorrelated jitter: each pause is drawn between the first and three times the last (Brooker, AWS 2015).

    Args:
        rng: Source of the jitter.
        first_s, most_s: Shortest and longest pause.
    """

    def __init__(self, rng: Random, *, first_s: float = 0.05, most_s: float = 0.5) -> None:
        self._rng = rng
        self._first_s = first_s
        self._most_s = most_s
        self._last_s = first_s

    def next_s(self) -> float:
        """Return the next pause in seconds."""
        self._last_s = min(self._most_s, self._rng.uniform(self._first_s, 3.0 * self._last_s))
        return self._last_s

    def reset(self) -> None:
        """Begin anew after a success."""
        self._last_s = self._first_s
