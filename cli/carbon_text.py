"""What `clover carbon` prints: figures with everything that belongs to them, as JSON and as lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from clover.core.carbon import FALLBACK_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clover.core.carbon import CarbonIntensity
    from clover.core.forecast import ForecastError, Predicted


def figure(found: CarbonIntensity, at_s: float) -> dict[str, Any]:
    """Return a figure as an object for JSON."""
    return {
        "g_per_kwh": found.g_per_kwh,
        "zone": found.zone,
        "from": iso(found.from_s),
        "to": iso(found.to_s),
        "kind": found.kind,
        "factor": found.factor,
        "status": found.status,
        "source": found.source,
        "fallback_level": found.fallback_level,
        "age_s": found.age_s(at_s),
        "stale": found.stale,
        "trace_index": found.trace_index,
        "note": found.note,
    }


def figure_line(found: CarbonIntensity, at_s: float) -> str:
    """Return a figure as a line for people."""
    age_s = found.age_s(at_s)
    told = [
        f"{iso(found.from_s)}  {found.g_per_kwh:7.1f} gCO2e/kWh",
        f"{found.kind} of {found.zone}, {found.factor}",
        found.status,
        found.source,
        f"age {age_s:.0f} s" if age_s else "",
        FALLBACK_LEVELS[found.fallback_level] if found.fallback_level else "",
        found.note,
    ]
    return "  ".join(part for part in told if part)


def forecast_object(
    published: Sequence[CarbonIntensity], predicted: Sequence[Predicted], error: ForecastError | None, at_s: float
) -> dict[str, Any]:
    """Return both forecasts as an object for JSON."""
    return {
        "published": [figure(one, at_s) for one in published],
        "persistence": [{**msgspec.to_builtins(one), "from": iso(one.from_s)} for one in predicted],
        "persistence_error": msgspec.to_builtins(error),
    }


def forecast_lines(told: dict[str, Any]) -> Iterator[str]:
    """Yield both forecasts side by side."""
    published = {one["from"]: one["g_per_kwh"] for one in told["published"]}
    persisted = {one["from"]: one for one in told["persistence"]}
    yield "time                  published  as yesterday   80 % band (gCO2e/kWh)"
    for at in sorted(published.keys() | persisted.keys()):
        one = persisted.get(at)
        left = f"{published[at]:9.1f}" if at in published else f"{'-':>9}"
        right = f"{one['g_per_kwh']:12.1f}" if one else f"{'-':>12}"
        band = f"{one['low_g_per_kwh']:.1f} to {one['high_g_per_kwh']:.1f}" if one and one["low_g_per_kwh"] else ""
        yield f"{at}  {left}  {right}   {band}"
    if told["persistence_error"]:
        yield f"as yesterday was wrong by {_error(told['persistence_error'])} in the past that was looked at"


def import_lines(told: dict[str, Any]) -> Iterator[str]:
    """Yield what an import found and did."""
    yield f"rows       {told['rows']} in dialect {told['dialect']}, factor {told['factor']}"
    yield f"intervals  {told['intervals']} of {told['step_h']:g} h"
    yield f"missing    {told['blank']} blank, {told['absent']} absent"
    yield f"filled     {told['interpolated']} interpolated, {told['repeated']} repeated from another day"
    yield (
        f"stamps     {told['off_grid']} off the grid and used, {told['off_grid_dropped']} off the grid and dropped, "
        f"{told['duplicates']} duplicate, {told['conflicts']} in conflict (the later row holds), "
        f"{told['unordered']} out of order"
    )
    for at, hours in told["irregular_steps"]:
        yield f"step       {at}: {hours:g} h to the next"
    for gap in told["gaps"]:
        yield f"gap        {gap['from_']}: {gap['intervals']} {gap['kind']} ({gap['hours']:g} h), {gap['filled']}"
    for name in ("published_forecast", "persistence"):
        if told[name]:
            yield f"error      {name.replace('_', ' ')}: {_error(told[name])}"
    yield f"written    {told['out']}" if told["out"] else "written    nothing; name a file with --out"


def doctor_lines(checks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what a look at the sources found; keys are only ever said to be set or not."""
    for check in checks:
        yield f"{check['source']:<20} {check['about']}"
        for key, there in check["keys"].items():
            yield f"{'':<20} {key} (or {key}_FILE) is {'set' if there else 'NOT set'}"
        if "ok" in check:
            found = check.get("figure")
            yield f"{'':<20} {check['url']}: " + (
                f"ok, {found['g_per_kwh']:g} g/kWh, {found['status']}, age {found['age_s']:.0f} s"
                if found
                else f"FAILED: {check['error']}"
            )


def iso(at_s: float) -> str:
    """Write a second as UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _error(error: dict[str, Any]) -> str:
    return (
        f"{error['mean_absolute_g_per_kwh']:.1f} g/kWh on average, {error['of_mean_pct']:.1f} % of the mean "
        f"(MAPE {error['mean_absolute_pct']:.1f} %, {error['pairs']} pairs)"
    )
