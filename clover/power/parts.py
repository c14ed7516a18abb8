"""The ledger in parts: by variant, node, GPU, hour and source of the joules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from clover.bus.messages import LedgerParts, Part
from clover.core.units import footprint_g

HOUR_S = 3600.0

#: Hours that are kept here; older ones are in the stream of ledger readings.
KEEP_HOURS = 48


class Parts:
    """Grows with each reading of the ledger."""

    def __init__(self, saved: LedgerParts | None = None) -> None:
        kept = saved or LedgerParts()
        self._groups: dict[str, dict[str, Part]] = {
            name.removeprefix("by_"): dict(getattr(kept, name)) for name in LedgerParts.__struct_fields__
        }

    def add(self, where: Mapping[str, str], energy_j: float, grams: float, answered: int) -> None:
        """Add energy to one part of each named grouping."""
        for group, key in where.items():
            self._add(group, key, energy_j, grams, answered)

    def add_variants(self, requests_j: Mapping[str, float], answered: Mapping[str, int], effective: float) -> None:
        """Add energy of requests by variant."""
        for variant in requests_j.keys() | answered.keys():
            energy_j = requests_j.get(variant, 0.0)
            self._add("variant", variant, energy_j, footprint_g(energy_j, effective, 1.0), answered.get(variant, 0))

    def add_hours(
        self,
        energy_j: float,
        answered: int,
        from_s: float,
        to_s: float,
        effective: Callable[[float, float], float],
    ) -> None:
        """Spread energy evenly over its time and cut it at the hours of UTC; answers count where it ends."""
        while from_s < to_s:
            until_s = min(to_s, (from_s // HOUR_S + 1.0) * HOUR_S)
            part_j = energy_j * (until_s - from_s) / (to_s - from_s)
            energy_j -= part_j
            last = until_s >= to_s
            grams = footprint_g(part_j, effective(from_s, until_s), 1.0)
            self._add("hour", _hour(from_s), part_j, grams, answered if last else 0)
            from_s = until_s
        hours = self._groups["hour"]
        for old in sorted(hours)[:-KEEP_HOURS]:
            del hours[old]

    def message(self) -> LedgerParts:
        """Return all parts."""
        return LedgerParts(**{f"by_{group}": dict(sorted(parts.items())) for group, parts in self._groups.items()})

    def _add(self, group: str, key: str, energy_j: float, grams: float, answered: int) -> None:
        parts = self._groups[group]
        old = parts.get(key, Part())
        parts[key] = msgspec.structs.replace(
            old,
            energy_j=old.energy_j + energy_j,
            footprint_g=old.footprint_g + grams,
            answered=old.answered + answered,
        )


def _hour(at_s: float) -> str:
    return datetime.fromtimestamp(at_s // HOUR_S * HOUR_S, UTC).strftime("%Y-%m-%dT%H:%MZ")
