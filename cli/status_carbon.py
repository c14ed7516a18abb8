"""The carbon part of `clover status`: the figure in force, the ledger, and the SCI score with its parts."""

from __future__ import annotations

from typing import Any

import msgspec

from cli.dashboard_text import age, clock
from cli.output import number
from clover.bus.messages import LedgerReading
from clover.core.carbon import FALLBACK_LEVELS
from clover.core.sci import embodied_band
from clover.power.score import ledger_score


def sci_of(found: dict[str, Any], embodied: str | None) -> dict[str, Any] | None:
    """Return the SCI score of everything in the ledger; None while nothing was answered."""
    ledger, intensity = found["ledger"], found["intensity"]
    band = embodied_band(embodied, {node["gpu_model"] for node in found["nodes"]})
    if ledger is None or intensity is None:
        return None
    score = ledger_score(msgspec.convert(ledger, LedgerReading), pue=intensity["pue"], embodied=band)
    return msgspec.to_builtins(score)


def print_carbon(
    intensity: dict[str, Any] | None, ledger: dict[str, Any] | None, sci: dict[str, Any] | None, now_ms: float
) -> None:
    """Print the carbon part of the status."""
    if intensity is None:
        print("intensity  not known yet: no carbon monitor has published")
    else:
        _print_intensity(intensity, now_ms)
    if ledger is not None:
        print(
            f"ledger     {ledger['energy_j'] / 3600.0:.2f} Wh, {number(ledger['footprint_g'], ' g', 2)} in all "
            f"(energy: {ledger['energy_source']}), up to {clock(ledger['at_ms'])}"
        )
        if ledger["host_source"]:
            print(
                f"           host beside it {ledger['host_j'] / 3600.0:.2f} Wh, {number(ledger['host_g'], ' g', 2)} "
                f"({ledger['host_source']})"
            )
        if ledger["unresolved_j"]:
            print(f"           {ledger['unresolved_j'] / 3600.0:.2f} Wh unresolved, not contained")
    if sci is not None:
        _print_sci(sci)


def _print_intensity(intensity: dict[str, Any], now_ms: float) -> None:
    since = f"since {clock(intensity['from_ms'])} ({age(max(0.0, now_ms - intensity['from_ms']) / 1e3)})"
    print(
        f"intensity  {intensity['g_per_kwh']:g} g/kWh {since}, "
        f"{intensity['kind']} of {intensity['zone']}, "
        f"from {intensity['source']} "
        f"({intensity['status']}), PUE {intensity['pue']:g}"
    )
    told: list[str] = []
    if intensity["observed_to_ms"] is not None:
        told.append(f"age {age(max(0.0, now_ms - intensity['observed_to_ms']) / 1e3)}")
    if intensity["fallback_level"]:
        told.append(FALLBACK_LEVELS[intensity["fallback_level"]])
    if intensity["stale"]:
        told.append("STALE: plans stay as they are")
    if intensity["note"]:
        told.append(intensity["note"])
    if told:
        print(f"           {', '.join(told)}")


def _print_sci(sci: dict[str, Any]) -> None:
    band = ""
    if sci["embodied_source"]:
        low, high = sci["embodied_low_g_per_request"], sci["embodied_high_g_per_request"]
        band = f", M {1e3 * low:.3f} to {1e3 * high:.3f} mg"
    print(
        f"SCI        {1e3 * sci['score_low_g_per_request']:.3f} to {1e3 * sci['score_high_g_per_request']:.3f} mgCO2e "
        f"per request (E {1e3 * sci['energy_kwh_per_request']:.4f} Wh with PUE, "
        f"I {sci['intensity_g_per_kwh']:.1f} g/kWh{band}, R {sci['requests']} answered requests)"
    )
    print(f"           M: {sci['embodied_source'] or 'not counted; give --embodied'}; never part of a plan")
