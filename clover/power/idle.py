"""Idle power of a GPU: assumed from the performance table until it has been measured in that configuration."""

from __future__ import annotations

from dataclasses import dataclass

#: A measurement counts after so many idle seconds; later ones weigh as a running mean over at most so many.
LEAST_S, MOST_S = 10.0, 600.0


@dataclass(slots=True)
class _Mean:
    power_w: float = 0.0
    seconds: float = 0.0


class IdlePower:
    """Watts with nothing at work, by what the GPU is doing and how many of its slices are held.

    Args:
        serving_w, parked_w: What is assumed until measured.
    """

    def __init__(self, *, serving_w: float, parked_w: float) -> None:
        self._serving_w = serving_w
        self._parked_w = parked_w
        self._means: dict[tuple[str, int], _Mean] = {}

    def measured(self, state: str, occupied_slices: int, energy_j: float, seconds: float) -> None:
        """Take in a window in which nothing worked and nothing changed; windows of no length say nothing."""
        if seconds <= 0.0 or state == "changing":
            return
        mean = self._means.setdefault((state, occupied_slices), _Mean())
        known_s = min(mean.seconds, MOST_S)
        mean.power_w = (mean.power_w * known_s + energy_j) / (known_s + seconds)
        mean.seconds += seconds

    def of(self, state: str, occupied_slices: int) -> float:
        """Return the power to expect, in W."""
        mean = self._means.get((state, occupied_slices))
        if mean is not None and mean.seconds >= LEAST_S:
            return mean.power_w
        if state == "off":
            return 0.0
        return self._parked_w if state == "parked" else self._serving_w
