"""The energy account of one GPU: splits joules into their causes so that the parts always sum to the whole.

Idle power runs whether or not anybody asks anything. It is split by sevenths of the board: what instances occupy is
`idle`, what nobody occupies is `unallocated`, or `transition` while the GPU is being changed. Dynamic energy is
booked to the
variant that caused it when its request ends.
"""

from __future__ import annotations

from typing import Literal

from clover.bus.messages import EnergyCounters

PowerState = Literal["serving", "changing", "parked", "off"]


class GpuAccount:
    """Cumulative joules of one GPU since `now_s` at construction."""

    def __init__(self, *, idle_power_w: float, parked_power_w: float, compute_slices: int, now_s: float) -> None:
        self._idle_power_w = idle_power_w
        self._parked_power_w = parked_power_w
        self._compute_slices = compute_slices
        self._cut_s = now_s
        self._state: PowerState = "serving"
        self._occupied = 0
        self._requests_j: dict[str, float] = {}
        self._idle_j = self._unallocated_j = self._parked_j = self._transition_j = 0.0

    def set_state(self, state: PowerState, *, occupied_slices: int, now_s: float) -> None:
        """Change what the GPU is doing from now on.

        Args:
            state: What it does.
            occupied_slices: Compute slices that instances hold.
            now_s: Wall time.
        """
        self._cut(now_s)
        self._state, self._occupied = state, occupied_slices

    def measure(self, counter_mj: int, *, now_s: float) -> None:
        """Take in a reading of the GPU's energy counter, mJ; this account goes by power and time alone."""

    def add_request(self, variant: str, energy_j: float, *, beside: bool = False) -> None:  # noqa: ARG002 - see there
        """Book the dynamic energy of one request.

        Args:
            variant: Who served it.
            energy_j: Its energy.
            beside: Whether it was spent beside the GPU (on the CPU); tells only where the GPU has a counter.
        """
        self._requests_j[variant] = self._requests_j.get(variant, 0.0) + energy_j

    def read(self, now_s: float) -> EnergyCounters:
        """Cut the account at a moment and return the cumulative joules."""
        self._cut(now_s)
        return EnergyCounters(
            requests_j=dict(self._requests_j),
            idle_j=self._idle_j,
            unallocated_j=self._unallocated_j,
            parked_j=self._parked_j,
            transition_j=self._transition_j,
        )

    def _cut(self, now_s: float) -> None:
        seconds = max(0.0, now_s - self._cut_s)
        self._cut_s = max(self._cut_s, now_s)
        if self._state == "parked":
            self._parked_j += self._parked_power_w * seconds
        elif self._state != "off":
            idle_j = self._idle_power_w * seconds
            occupied_j = idle_j * min(1.0, self._occupied / self._compute_slices)
            self._idle_j += occupied_j
            if self._state == "changing":
                self._transition_j += idle_j - occupied_j
            else:
                self._unallocated_j += idle_j - occupied_j
