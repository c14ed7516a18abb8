"""United States: hourly generation by fuel of EIA-930 (API version 2, a free key), turned into an intensity here.

intensity = sum(MWh x factor) / sum(MWh) over the fuels: production based, imports not counted, our own factors
(`clover/data/emission_factors/*.toml`, each with its source). Stamps are the END of the hour in UTC (EIA, "Hourly
Electric Grid Monitor", about: hour-ending convention). Figures come an hour to a day late and are revised later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from clover.carbon.factors import EmissionFactors
from clover.carbon.http import JsonClient
from clover.carbon.port import BadReplyError, NoValueError, SourceTraits
from clover.carbon.reading import Secret, newest, reading, utc_s, utc_text
from clover.core.carbon import CarbonIntensity
from clover.core.clock import Clock
from clover.errors import ConfigurationError

URL = "https://api.eia.gov"
KEY_VARIABLE = "CLOVER_EIA_KEY"
PATH = "/v2/electricity/rto/fuel-type-data/data/"

#: The API's own limit; more needs more requests.
PAGE_ROWS = 5000
_PAGES_MOST = 40


class _Row(msgspec.Struct):
    period: str
    respondent: str
    fueltype: str
    value: float | None = None
    units: str | None = msgspec.field(name="value-units", default=None)


class _Page(msgspec.Struct):
    data: list[_Row]
    total: int = 0


class _Reply(msgspec.Struct):
    response: _Page


class EiaSource:
    """One balancing authority, such as `CISO` or `PJM`."""

    def __init__(self, zone: str, *, key: Secret, factors: EmissionFactors, http: JsonClient, clock: Clock) -> None:
        if not zone.isalnum():
            raise ConfigurationError(f"--carbon-zone = {zone!r}: expected a balancing authority such as CISO or PJM")
        self._key = key
        self._factors = factors
        self._http = http
        self._clock = clock
        self._traits = SourceTraits(
            name="eia",
            zone=zone,
            factor=factors.factor,
            slot_s=3600.0,
            lag_s=26 * 3600.0,
            stale_s=30 * 3600.0,
            forecasts=False,
        )

    @property
    def traits(self) -> SourceTraits:
        """What is always true of it."""
        return self._traits

    async def latest(self, now_s: float) -> CarbonIntensity:
        """Return the newest hour for which every fuel of the last two days has reported."""
        return newest(await self.history(now_s - 48 * 3600.0, now_s), now_s, "eia")

    async def history(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return past hours; one in which a fuel is missing that others have is left out."""
        rows = await self._rows(from_s, to_s)
        hours: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            if row.respondent != self._traits.zone:
                raise BadReplyError(f"eia: asked for {self._traits.zone}, got {row.respondent}")
            if row.units not in {None, "megawatthours"}:
                raise BadReplyError(f"eia: unit {row.units!r}, expected megawatthours")
            if row.value is not None:
                hours[row.period][row.fueltype] = row.value
        most = max((len(fuels) for fuels in hours.values()), default=0)
        whole = [self._reading(period, fuels) for period, fuels in sorted(hours.items()) if len(fuels) == most]
        if not whole:
            raise NoValueError(f"eia: {len(rows)} rows, no hour with a value")
        return whole

    async def forecast(self, now_s: float, hours: float) -> Sequence[CarbonIntensity]:  # noqa: ARG002 - the port's
        """Return nothing: EIA-930 has no forecast of generation by fuel."""
        return []

    async def close(self) -> None:
        """Release connections."""
        await self._http.close()

    async def _rows(self, from_s: float, to_s: float) -> list[_Row]:
        rows: list[_Row] = []
        while len(rows) < _PAGES_MOST * PAGE_ROWS:
            page = (await self._http.get(PATH, _Reply, params=self._params(from_s, to_s, len(rows)))).response
            rows += page.data
            if not page.data or len(rows) >= page.total:
                return rows
        raise BadReplyError(f"eia: more than {_PAGES_MOST * PAGE_ROWS} rows")

    def _params(self, from_s: float, to_s: float, offset: int) -> Mapping[str, str]:
        return {
            "api_key": self._key.reveal(),
            "frequency": "hourly",
            "data[0]": "value",
            "facets[respondent][]": self._traits.zone,
            "start": utc_text(from_s, "%Y-%m-%dT%H"),
            "end": utc_text(to_s, "%Y-%m-%dT%H"),
            "sort[0][column]": "period",
            "sort[0][direction]": "desc",
            "offset": str(offset),
            "length": str(PAGE_ROWS),
        }

    def _reading(self, period: str, fuels: Mapping[str, float]) -> CarbonIntensity:
        to_s = utc_s(f"{period}:00", "eia period", naive_is_utc=True)
        value = self._factors.intensity(fuels)
        if value is None:
            raise BadReplyError(f"eia: no generation at all in {period}")
        return reading(
            self._traits,
            value,
            from_s=to_s - 3600.0,
            to_s=to_s,
            status="estimated",
            fetched_at_s=self._clock.now_s(),
            note=f"generation x factors {self._factors.name}",
        )
