"""The energy account of a GPU with a counter: what the counter says, split into its causes.

Only the whole GPU has a counter. Of what it counts between two readings, idle power x time comes first, split by what
occupied the board as in `clover.power.account`; the rest is dynamic and goes to the variants whose requests ended
meanwhile, by their estimates. The parts sum to the counter, whatever the estimates are, plus what requests are said to
have taken beside the GPU.
"""

from __future__ import annotations

from clover.bus.messages import EnergyCounters
from clover.power.account import GpuAccount


class MeteredAccount(GpuAccount):
    """Cumulative joules of one GPU since the first reading of its counter.

    `read` gives what was known at the last reading (`measure`); what was used since then comes with the next.
    """

    def __init__(self, *, idle_power_w: float, parked_power_w: float, compute_slices: int, now_s: float) -> None:
        super().__init__(
            idle_power_w=idle_power_w, parked_power_w=parked_power_w, compute_slices=compute_slices, now_s=now_s
        )
        self._counter_mj: int | None = None
        self._modelled = EnergyCounters()
        self._measured = EnergyCounters()

    def measure(self, counter_mj: int, *, now_s: float) -> None:
        """Take in a reading of the counter.

        A counter that has gone back was started anew (the driver was loaded again); what it counted before the next
        reading is not known and not guessed.

        Args:
            counter_mj: Energy of the whole GPU since the driver was loaded, mJ.
            now_s: Wall time.
        """
        modelled = super().read(now_s)
        if self._counter_mj is not None and counter_mj >= self._counter_mj:
            used_j = (counter_mj - self._counter_mj) / 1e3
            self._measured = _add(self._measured, _split(used_j, _difference(modelled, self._modelled)))
        self._counter_mj = counter_mj
        self._modelled = modelled

    def add_request(self, variant: str, energy_j: float, *, beside: bool = False) -> None:
        """Book one request: a weight for what the counter will say, or joules that no counter of the GPU sees."""
        if beside:
            self._measured = _add(self._measured, EnergyCounters(requests_j={variant: energy_j}))
        else:
            super().add_request(variant, energy_j)

    def read(self, now_s: float) -> EnergyCounters:  # noqa: ARG002 - what is known does not depend on the time
        """Return the cumulative joules at the last reading of the counter."""
        return self._measured


def _split(used_j: float, modelled: EnergyCounters) -> EnergyCounters:
    """Split measured joules by the model of the same time: idle power first, the rest to requests."""
    standing = _standing(modelled)
    idle_j = min(used_j, sum(standing))
    dynamic_j = used_j - idle_j
    weights = modelled.requests_j
    total = sum(weights.values())
    if total <= 0.0:
        # Nobody to book it to: the board drew more at rest than its table says.
        idle_j, dynamic_j = used_j, 0.0
    scale = idle_j / sum(standing) if sum(standing) > 0.0 else 0.0
    idle, unallocated, parked, transition = (part * scale for part in standing)
    return EnergyCounters(
        requests_j={variant: dynamic_j * weight / total for variant, weight in weights.items() if total > 0.0},
        idle_j=idle,
        unallocated_j=unallocated if scale else idle_j,
        parked_j=parked,
        transition_j=transition,
    )


def _standing(counters: EnergyCounters) -> tuple[float, float, float, float]:
    return (counters.idle_j, counters.unallocated_j, counters.parked_j, counters.transition_j)


def _difference(later: EnergyCounters, earlier: EnergyCounters) -> EnergyCounters:
    idle, unallocated, parked, transition = (
        after - before for after, before in zip(_standing(later), _standing(earlier), strict=True)
    )
    return EnergyCounters(
        requests_j={name: joules - earlier.requests_j.get(name, 0.0) for name, joules in later.requests_j.items()},
        idle_j=idle,
        unallocated_j=unallocated,
        parked_j=parked,
        transition_j=transition,
    )


def _add(total: EnergyCounters, more: EnergyCounters) -> EnergyCounters:
    idle, unallocated, parked, transition = (a + b for a, b in zip(_standing(total), _standing(more), strict=True))
    names = total.requests_j.keys() | more.requests_j.keys()
    return EnergyCounters(
        requests_j={name: total.requests_j.get(name, 0.0) + more.requests_j.get(name, 0.0) for name in sorted(names)},
        idle_j=idle,
        unallocated_j=unallocated,
        parked_j=parked,
        transition_j=transition,
    )
