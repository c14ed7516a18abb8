"""Great Britain: the Carbon Intensity API of NESO (national, and its 17 regions). No key; CC BY 4.0.

Half-hours in UTC; average, generation only (not lifecycle), imports and losses included. The national "actual" is an
estimate and is null for the running half-hour, where the forecast stands instead; regions have forecasts only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clover.carbon.http import JsonClient
from clover.carbon.port import NoValueError, SourceTraits
from clover.carbon.reading import newest, reading, utc_s, utc_text
from clover.core.carbon import CarbonIntensity, IntensityStatus
from clover.core.clock import Clock
from clover.errors import ConfigurationError

URL = "https://api.carbonintensity.org.uk"
REGIONS = 18

#: The API gives at most so much past per request.
_HISTORY_MOST_S = 13.5 * 86_400.0


class _Figures(msgspec.Struct):
    forecast: float | None = None
    actual: float | None = None


class _Slot(msgspec.Struct):
    from_: str = msgspec.field(name="from")
    to: str
    intensity: _Figures


class _National(msgspec.Struct):
    data: list[_Slot]


class _Region(msgspec.Struct):
    data: list[_Slot]
    regionid: int | None = None


class _Regional(msgspec.Struct):
    # A list for the present, an object for a series.
    data: list[_Region] | _Region


class NesoSource:
    """The API for zone `GB`, or `GB-<region id 1 to 18>`."""

    def __init__(self, zone: str, *, http: JsonClient, clock: Clock) -> None:
        self._region = _region(zone)
        self._http = http
        self._clock = clock
        self._traits = SourceTraits(
            name="neso", zone=zone, factor="direct", slot_s=1800.0, lag_s=120.0, stale_s=3 * 3600.0, forecasts=True
        )

    @property
    def traits(self) -> SourceTraits:
        """What is always true of it."""
        return self._traits

    async def latest(self, now_s: float) -> CarbonIntensity:
        """Return the running half-hour."""
        path = "/intensity" if self._region is None else f"/regional/regionid/{self._region}"
        return newest(await self._slots(path), now_s, f"neso {path}")

    async def history(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return past half-hours, at most 13.5 days back from `to_s`."""
        span = f"{utc_text(max(from_s, to_s - _HISTORY_MOST_S))}/{utc_text(to_s)}"
        return await self._slots(self._series(span))

    async def forecast(self, now_s: float, hours: float) -> Sequence[CarbonIntensity]:
        """Return the forecast for 24 or 48 h."""
        found = await self._slots(self._series(f"{utc_text(now_s)}/{'fw24h' if hours <= 24 else 'fw48h'}"))
        # The first half-hour may begin, and even end, before what was asked for.
        return [r for r in found if r.to_s > now_s]

    async def close(self) -> None:
        """Release connections."""
        await self._http.close()

    def _series(self, span: str) -> str:
        return f"/intensity/{span}" if self._region is None else f"/regional/intensity/{span}/regionid/{self._region}"

    async def _slots(self, path: str) -> list[CarbonIntensity]:
        if self._region is None:
            slots = (await self._http.get(path, _National)).data
        else:
            slots = self._of_region(await self._http.get(path, _Regional))
        readings = [found for slot in slots if (found := self._reading(slot)) is not None]
        if not readings:
            raise NoValueError(f"neso {path}: {len(slots)} half-hours, none with a value")
        return sorted(readings, key=lambda r: r.from_s)

    def _of_region(self, reply: _Regional) -> list[_Slot]:
        regions = reply.data if isinstance(reply.data, list) else [reply.data]
        for region in regions:
            if region.regionid in {None, self._region}:
                return region.data
        raise NoValueError(f"neso: asked for region {self._region}, got {[region.regionid for region in regions]}")

    def _reading(self, slot: _Slot) -> CarbonIntensity | None:
        figures = slot.intensity
        value = figures.forecast if figures.actual is None else figures.actual
        if value is None:
            return None
        status: IntensityStatus = "forecast" if figures.actual is None else "estimated"
        return reading(
            self._traits,
            value,
            from_s=utc_s(slot.from_, "neso from"),
            to_s=utc_s(slot.to, "neso to"),
            status=status,
            fetched_at_s=self._clock.now_s(),
        )


def _region(zone: str) -> int | None:
    if zone == "GB":
        return None
    country, dash, number = zone.partition("-")
    if country == "GB" and dash and number.isdigit() and 1 <= int(number) <= REGIONS:
        return int(number)
    raise ConfigurationError(f"--carbon-zone = {zone!r}: expected GB, or GB-1 to GB-{REGIONS} for a region")
