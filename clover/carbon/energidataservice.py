"""Denmark: CO2Emis and CO2EmisProg of Energi Data Service (five-minute averages and their forecast). No key.

Stamps are UTC without saying so (`Minutes5UTC`); the Danish local times beside them are never read, so that the hour
that comes twice in October cannot be mistaken.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clover.carbon.http import JsonClient
from clover.carbon.port import BadReplyError, NoValueError, SourceTraits
from clover.carbon.reading import newest, reading, utc_s, utc_text
from clover.core.carbon import CarbonIntensity, IntensityStatus
from clover.core.clock import Clock
from clover.errors import ConfigurationError

URL = "https://api.energidataservice.dk"
ZONES = ("DK1", "DK2")

_SLOT_S = 300.0


class _Record(msgspec.Struct):
    minutes_utc: str = msgspec.field(name="Minutes5UTC")
    area: str = msgspec.field(name="PriceArea")
    value: float | None = msgspec.field(name="CO2Emission", default=None)


class _Reply(msgspec.Struct):
    records: list[_Record]


class EnergiDataServiceSource:
    """The service for `DK1` (west) or `DK2` (east)."""

    def __init__(self, zone: str, *, http: JsonClient, clock: Clock) -> None:
        if zone not in ZONES:
            raise ConfigurationError(f"--carbon-zone = {zone!r}: expected {' or '.join(ZONES)}")
        self._http = http
        self._clock = clock
        self._traits = SourceTraits(
            name="energidataservice",
            zone=zone,
            factor="direct",
            slot_s=_SLOT_S,
            lag_s=1200.0,
            stale_s=3 * 3600.0,
            forecasts=True,
        )

    @property
    def traits(self) -> SourceTraits:
        """What is always true of it."""
        return self._traits

    async def latest(self, now_s: float) -> CarbonIntensity:
        """Return the newest five minutes."""
        found = await self._records("CO2Emis", now_s - 3600.0, now_s + _SLOT_S, "measured")
        return newest(found, now_s, "energidataservice CO2Emis")

    async def history(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return past five-minute figures."""
        return await self._records("CO2Emis", from_s, to_s, "measured")

    async def forecast(self, now_s: float, hours: float) -> Sequence[CarbonIntensity]:
        """Return the forecast, which reaches to the end of today or tomorrow."""
        found = await self._records("CO2EmisProg", now_s - _SLOT_S, now_s + hours * 3600.0, "forecast")
        return [r for r in found if r.to_s > now_s]

    async def close(self) -> None:
        """Release connections."""
        await self._http.close()

    async def _records(
        self, dataset: str, from_s: float, to_s: float, status: IntensityStatus
    ) -> list[CarbonIntensity]:
        zone = self._traits.zone
        params = {
            "start": utc_text(from_s, "%Y-%m-%dT%H:%M"),
            "end": utc_text(to_s, "%Y-%m-%dT%H:%M"),
            "timezone": "utc",
            "filter": f'{{"PriceArea":["{zone}"]}}',
            "sort": "Minutes5UTC",
            # 0 would mean everything there is.
            "limit": str(int((to_s - from_s) / _SLOT_S) + 2),
        }
        reply = await self._http.get(f"/dataset/{dataset}", _Reply, params=params)
        found = [self._reading(record, status) for record in reply.records if record.value is not None]
        if not found:
            raise NoValueError(f"energidataservice {dataset}: {len(reply.records)} records, none with a value")
        return sorted(found, key=lambda r: r.from_s)

    def _reading(self, record: _Record, status: IntensityStatus) -> CarbonIntensity:
        if record.area != self._traits.zone:
            raise BadReplyError(f"energidataservice: asked for {self._traits.zone}, got {record.area}")
        from_s = utc_s(record.minutes_utc, "energidataservice Minutes5UTC", naive_is_utc=True)
        return reading(
            self._traits,
            record.value if record.value is not None else -1.0,
            from_s=from_s,
            to_s=from_s + _SLOT_S,
            status=status,
            fetched_at_s=self._clock.now_s(),
        )
