"""Electricity Maps, API versions 3 and 4 (a key is needed; its plan says which zones and calls it may use).

Hourly, average, flow-traced consumption; lifecycle factors unless direct ones are asked for. The look-up of the
caller's own place is switched off and the zone in every answer is compared with the one that was asked for; answers
of a sandbox key (random figures with a disclaimer) are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

from clover.carbon.http import JsonClient
from clover.carbon.port import AccessDeniedError, BadReplyError, NoValueError, SourceTraits
from clover.carbon.reading import Secret, newest, reading, utc_s
from clover.core.carbon import CarbonIntensity, IntensityStatus
from clover.core.clock import Clock
from clover.errors import ConfigurationError

URL = "https://api.electricitymaps.com"
KEY_VARIABLE = "CLOVER_ELECTRICITYMAPS_KEY"

_SLOT_S = 3600.0


class _Point(msgspec.Struct, rename="camel"):
    datetime: str
    carbon_intensity: float | None = None
    is_estimated: bool | None = None
    estimation_method: str | None = None
    zone: str | None = None


class _Latest(_Point, rename="camel"):
    disclaimer: str | None = msgspec.field(name="disclaimer", default=None)
    hidden_disclaimer: str | None = msgspec.field(name="_disclaimer", default=None)


class _Series(msgspec.Struct, rename="camel"):
    zone: str
    history: list[_Point] = []
    forecast: list[_Point] = []
    data: list[_Point] = []
    disclaimer: str | None = msgspec.field(name="disclaimer", default=None)
    hidden_disclaimer: str | None = msgspec.field(name="_disclaimer", default=None)


_ReplyT = TypeVar("_ReplyT", _Latest, _Series)


class ElectricityMapsSource:
    """The API for one of its zones.

    Args:
        zone: Such as `DE` or `US-CAL-CISO`.
        key: Of the account.
        http, clock: Ports.
        version: Of the API for the newest value; series are only in version 3.
        factor: Which emission factors to ask for.
    """

    def __init__(
        self,
        zone: str,
        *,
        key: Secret,
        http: JsonClient,
        clock: Clock,
        version: Literal[3, 4] = 3,
        factor: Literal["lifecycle", "direct"] = "lifecycle",
    ) -> None:
        if not zone or not zone.replace("-", "").isalnum():
            raise ConfigurationError(f"--carbon-zone = {zone!r}: expected a zone such as DE or US-CAL-CISO")
        self._key = key
        self._http = http
        self._clock = clock
        self._version = version
        self._traits = SourceTraits(
            name="electricitymaps",
            zone=zone,
            factor=factor,
            slot_s=_SLOT_S,
            lag_s=3600.0,
            stale_s=6 * 3600.0,
            forecasts=True,
        )
        self._may_forecast = True

    @property
    def traits(self) -> SourceTraits:
        """What is always true of it."""
        return self._traits

    async def latest(self, now_s: float) -> CarbonIntensity:
        """Return the newest hour."""
        point = await self._get(f"/v{self._version}/carbon-intensity/latest", _Latest)
        if point.carbon_intensity is None:
            raise NoValueError(f"electricitymaps: carbonIntensity of {point.datetime} is null")
        return newest([self._reading(point, forecast=False)], now_s, "electricitymaps latest")

    async def history(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return the last 24 hours, as far as they are asked for."""
        series = await self._get("/v3/carbon-intensity/history", _Series)
        found = self._readings(series.history, forecast=False)
        return [r for r in found if from_s <= r.from_s < to_s]

    async def forecast(self, now_s: float, hours: float) -> Sequence[CarbonIntensity]:
        """Return the forecast; empty once the account turned out not to have it."""
        if not self._may_forecast:
            return []
        try:
            series = await self._get("/v3/carbon-intensity/forecast", _Series, horizonHours=f"{min(72, round(hours))}")
        except AccessDeniedError:
            self._may_forecast = False
            return []
        return [r for r in self._readings(series.forecast, forecast=True) if r.to_s > now_s]

    async def close(self) -> None:
        """Release connections."""
        await self._http.close()

    async def _get(self, path: str, expected: type[_ReplyT], **extra: str) -> _ReplyT:
        params = {
            "zone": self._traits.zone,
            "emissionFactorType": self._traits.factor,
            "shouldUseFallbackCallerLookup": "false",
            **extra,
        }
        reply = await self._http.get(path, expected, params=params, headers={"auth-token": self._key.reveal()})
        if reply.disclaimer or reply.hidden_disclaimer:
            raise BadReplyError("electricitymaps: the answer has a disclaimer, so it is a sandbox key's random figure")
        if reply.zone != self._traits.zone:
            raise BadReplyError(f"electricitymaps: asked for zone {self._traits.zone}, got {reply.zone}")
        return reply

    def _readings(self, points: Sequence[_Point], *, forecast: bool) -> list[CarbonIntensity]:
        found = [self._reading(point, forecast=forecast) for point in points if point.carbon_intensity is not None]
        return sorted(found, key=lambda r: r.from_s)

    def _reading(self, point: _Point, *, forecast: bool) -> CarbonIntensity:
        from_s = utc_s(point.datetime, "electricitymaps datetime")
        measured: IntensityStatus = "estimated" if point.is_estimated else "measured"
        return reading(
            self._traits,
            point.carbon_intensity if point.carbon_intensity is not None else -1.0,
            from_s=from_s,
            to_s=from_s + _SLOT_S,
            status="forecast" if forecast else measured,
            fetched_at_s=self._clock.now_s(),
            note=point.estimation_method or "",
        )
