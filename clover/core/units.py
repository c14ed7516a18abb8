"""Conversions between the units that Clover uses, and nothing else."""

from __future__ import annotations

#: Joules in one kilowatt-hour.
J_PER_KWH = 3.6e6

#: Milliseconds in one second.
MS_PER_S = 1e3


def footprint_g(energy_j: float, intensity_g_per_kwh: float, pue: float) -> float:
    """Return the operational footprint of some energy, in gCO2e.

    footprint = energy / 3.6e6 x PUE x intensity, location-based and attributional
    (GHG Protocol scope 2; PUE as in ISO/IEC 30134-2, applied once).

    Args:
        energy_j: IT energy in joules.
        intensity_g_per_kwh: Carbon intensity of the grid while it was used, gCO2e per kWh.
        pue: Facility energy / IT energy, >= 1.
    """
    return energy_j / J_PER_KWH * pue * intensity_g_per_kwh
