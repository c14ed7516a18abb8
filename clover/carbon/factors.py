"""Emission factors by fuel, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import msgspec

from clover.core.carbon import IntensityFactor
from clover.errors import ConfigurationError

#: Newer codes of EIA-930 for storage: it moves energy and makes none, so it counts neither way.
STORAGE_FUELS = frozenset({"BAT", "PS", "SNB", "UES", "OES"})

#: A code that a table does not know (UNK, WNB and the like) counts as this one.
OTHER = "OTH"


class _Fuel(msgspec.Struct, forbid_unknown_fields=True):
    g_per_kwh: float
    source: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    factor: IntensityFactor
    fuels: dict[str, _Fuel]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmissionFactors:
    """gCO2e per kWh by EIA-930 fuel code.

    Attributes:
        name: Of the table.
        factor: Which emissions it counts.
        g_per_kwh: By fuel code.
        sources: Where each figure is from.
    """

    name: str
    factor: IntensityFactor
    g_per_kwh: Mapping[str, float]
    sources: Mapping[str, str]

    def intensity(self, generation_mwh: Mapping[str, float]) -> float | None:
        """Return the mean factor of a mix in gCO2e per kWh; None if nothing was generated.

        Storage counts neither way and negative values (a plant's own use at standstill) count as zero.
        """
        made = {fuel: max(0.0, mwh) for fuel, mwh in generation_mwh.items() if fuel not in STORAGE_FUELS}
        total = sum(made.values())
        if total <= 0.0:
            return None
        other = self.g_per_kwh[OTHER]
        return sum(mwh * self.g_per_kwh.get(fuel, other) for fuel, mwh in made.items()) / total


def load_factors(name: str) -> EmissionFactors:
    """Read a shipped table: `lifecycle` or `direct`."""
    file = resources.files("clover") / "data" / "emission_factors" / f"{name}.toml"
    if name not in {"lifecycle", "direct"}:
        raise ConfigurationError(f"emission factors {name!r}: expected lifecycle or direct")
    parsed = msgspec.toml.decode(file.read_text(), type=_File)
    return EmissionFactors(
        name=parsed.name,
        factor=parsed.factor,
        g_per_kwh={fuel: entry.g_per_kwh for fuel, entry in parsed.fuels.items()},
        sources={fuel: entry.source for fuel, entry in parsed.fuels.items()},
    )
