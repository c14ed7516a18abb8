"""The energy account of one GPU: splits joules into their causes so that the parts always sum to the whole.

Idle power runs whether or not anybody asks anything. It is split by sevenths of the board: what instances occupy is
`idle`, what nobody occupies is `unallocated`, or `transition` while the GPU is being changed; a parked GPU is `parked`.

With a meter (`take_counter`), idle = min(counter, idle power x time) and dynamic = the rest, which goes to variants by
busy time x the power that the performance table expects, scaled to the counter. Without one the whole is idle power x
time + what the servicer says that each request took, booked when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from clover.bus.messages import EnergyCounters
from clover.power.counter import CounterTracker
from clover.power.idle import IdlePower

PowerState = Literal["serving", "changing", "parked", "off"]

#: Expected dynamic power in W while a variant works on a profile.
DynamicPower = Callable[[str, str], float]


class GpuAccount:
    """Cumulative joules of one GPU since `now_s` at construction.

    Args:
        idle_power_w, parked_power_w: Assumed until measured.
        compute_slices: Of the whole board.
        now_s: Wall time.
        dynamic_power_w: For the split of a counter's dynamic part; needed with a meter.
        metered: Whether a counter will be read; else the model is the meter.
        last_counter_j: What the counter said when an earlier agent last looked.
    """

    def __init__(
        self,
        *,
        idle_power_w: float,
        parked_power_w: float,
        compute_slices: int,
        now_s: float,
        dynamic_power_w: DynamicPower | None = None,
        metered: bool = False,
        last_counter_j: float | None = None,
    ) -> None:
        self._idle_power = IdlePower(serving_w=idle_power_w, parked_w=parked_power_w)
        self._compute_slices = compute_slices
        self._dynamic_power_w = dynamic_power_w
        self._metered = metered
        self._tracker = CounterTracker(last_j=last_counter_j)
        self._at_s = self._cut_s = now_s
        self._state: PowerState = "serving"
        self._occupied = 0
        self._active: dict[int, tuple[str, float]] = {}
        self._steady = True
        self._idle_weights = dict.fromkeys(("idle", "unallocated", "parked", "transition"), 0.0)
        self._work_weights: dict[str, float] = {}
        self._totals_j = dict.fromkeys(self._idle_weights, 0.0)
        self._requests_j: dict[str, float] = {}
        self._answered: dict[str, int] = {}
        self._unresolved_j = 0.0
        self._gap_open, self._gap_measured = last_counter_j is not None, False

    @property
    def cut_s(self) -> float:
        """Until when the cumulative joules count."""
        return self._cut_s

    @property
    def counter_j(self) -> float | None:
        """The newest reading of the counter, to be kept for a restart."""
        return self._tracker.last_j

    # --- what happens

    def set_state(self, state: PowerState, *, occupied_slices: int, now_s: float) -> None:
        """Change what the GPU is doing from now on.

        Args:
            state: What it does.
            occupied_slices: Compute slices that instances hold.
            now_s: Wall time.
        """
        self._advance(now_s)
        self._steady &= (state, occupied_slices) == (self._state, self._occupied)
        self._state, self._occupied = state, occupied_slices

    def begin_work(self, key: int, variant: str, profile: str, now_s: float) -> None:
        """Note that an instance begins to work on a request; needed with a meter only."""
        if self._metered and self._dynamic_power_w is not None:
            self._advance(now_s)
            self._steady = False
            self._active[key] = (variant, self._dynamic_power_w(variant, profile))

    def end_work(self, key: int, now_s: float) -> None:
        """Note that an instance has finished, however that ended."""
        self._advance(now_s)
        self._active.pop(key, None)

    def add_request(self, variant: str, energy_j: float, *, beside: bool = False) -> None:
        """Count an answered request; its dynamic energy is booked too where no meter of the GPU sees it.

        Args:
            variant: Who served it.
            energy_j: Its dynamic energy.
            beside: Whether it was spent beside the GPU (its worker fell back to the CPU).
        """
        self._answered[variant] = self._answered.get(variant, 0) + 1
        if beside or not self._metered:
            self._requests_j[variant] = self._requests_j.get(variant, 0.0) + energy_j

    # --- reading

    def take_counter(self, counter_j: float, now_s: float) -> None:
        """Split what the counter says was used since its last reading.

        Args:
            counter_j: Joules since some fixed moment; a fall means that the driver was loaded anew.
            now_s: When it was read.
        """
        self._advance(now_s)
        seconds = now_s - self._cut_s
        advance = self._tracker.advance(counter_j)
        self._cut_s = now_s
        if advance is None:
            self._forget_weights()
            return
        if self._gap_open:
            # Used while no agent ran and until this first look: nobody can say by what.
            self._unresolved_j += advance.energy_j
            self._gap_open, self._gap_measured = False, True
            self._forget_weights()
            return
        if advance.reset:
            self._unresolved_j += max(0.0, sum(self._idle_weights.values()) - advance.energy_j)
        elif self._steady and not self._work_weights:
            self._idle_power.measured(self._state, self._occupied, advance.energy_j, seconds)
        self._split(advance.energy_j)

    def read(self, now_s: float) -> EnergyCounters:
        """Return the cumulative joules; without a meter they are cut now, else they are as of the last counter."""
        if not self._metered:
            self._advance(now_s)
            self._cut_s = self._at_s
            for cause, energy_j in self._idle_weights.items():
                self._totals_j[cause] += energy_j
            self._forget_weights()
        return EnergyCounters(
            requests_j=dict(self._requests_j),
            idle_j=self._totals_j["idle"],
            unallocated_j=self._totals_j["unallocated"],
            parked_j=self._totals_j["parked"],
            transition_j=self._totals_j["transition"],
            unresolved_j=self._unresolved_j,
            gap_measured=self._gap_measured,
            answered=dict(self._answered),
        )

    # --- splitting

    def _split(self, energy_j: float) -> None:
        assumed_j = sum(self._idle_weights.values())
        work = sum(self._work_weights.values())
        # With nothing at work all is idle, however much: it is what this configuration draws.
        idle_j = min(energy_j, assumed_j) if work > 0.0 else energy_j
        for cause, weight in self._idle_weights.items():
            if assumed_j > 0.0:
                self._totals_j[cause] += idle_j * weight / assumed_j
        if assumed_j <= 0.0:
            # Switched off as far as we know, or no time has passed; what it draws nevertheless is nobody's.
            self._totals_j["parked" if self._state in {"parked", "off"} else "unallocated"] += idle_j
        for variant, weight in self._work_weights.items():
            part_j = (energy_j - idle_j) * weight / work
            self._requests_j[variant] = self._requests_j.get(variant, 0.0) + part_j
        self._forget_weights()

    def _forget_weights(self) -> None:
        self._idle_weights = dict.fromkeys(self._idle_weights, 0.0)
        self._work_weights = {}
        self._steady = not self._active

    def _advance(self, now_s: float) -> None:
        seconds = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        if seconds <= 0.0:
            return
        for variant, power_w in self._active.values():
            self._work_weights[variant] = self._work_weights.get(variant, 0.0) + power_w * seconds
        idle_j = self._idle_power.of(self._state, self._occupied) * seconds
        if self._state == "parked":
            self._idle_weights["parked"] += idle_j
        elif self._state != "off":
            occupied_j = idle_j * min(1.0, self._occupied / self._compute_slices)
            self._idle_weights["idle"] += occupied_j
            rest = "transition" if self._state == "changing" else "unallocated"
            self._idle_weights[rest] += idle_j - occupied_j
