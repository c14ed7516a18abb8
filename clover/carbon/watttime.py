"""WattTime version 3 (user name and password needed): marginal or average emission rates of US and other regions.

Signals: `co2_moer` is marginal and must never be put in the place of an average; `co2_aoer` is the average. Both are in
lb/MWh and are converted here. A token lives for half an hour; an answer 401 makes us log in again, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from clover.carbon.http import JsonClient
from clover.carbon.port import AccessDeniedError, BadReplyError, NoValueError, SourceTraits
from clover.carbon.reading import G_PER_KWH_OF_LB_PER_MWH, Secret, newest, reading, utc_s, utc_text
from clover.core.carbon import CarbonIntensity, IntensityStatus
from clover.core.clock import Clock
from clover.errors import ConfigurationError

URL = "https://api.watttime.org"
USER_VARIABLE = "CLOVER_WATTTIME_USER"
PASSWORD_VARIABLE = "CLOVER_WATTTIME_PASSWORD"  # noqa: S105 - the name of a variable

_UNITS = {"lbs_co2_per_mwh": G_PER_KWH_OF_LB_PER_MWH, "lb_co2_per_mwh": G_PER_KWH_OF_LB_PER_MWH}
_CHUNK_S = 31 * 86_400.0
_STAMP = "%Y-%m-%dT%H:%M:%S+00:00"

Signal = Literal["co2_moer", "co2_aoer"]


class _Login(msgspec.Struct):
    token: str


class _Meta(msgspec.Struct):
    region: str
    signal_type: str
    units: str
    data_point_period_seconds: float = 300.0


class _Point(msgspec.Struct):
    point_time: str
    value: float | None = None


class _Reply(msgspec.Struct):
    meta: _Meta
    data: list[_Point]


class WattTimeSource:
    """One signal of one region, such as `CAISO_NORTH`."""

    def __init__(
        self, zone: str, *, user: Secret, password: Secret, http: JsonClient, clock: Clock, signal: Signal = "co2_moer"
    ) -> None:
        if not zone:
            raise ConfigurationError("--carbon-zone: expected a WattTime region such as CAISO_NORTH")
        self._user, self._password = user, password
        self._token = ""
        self._http = http
        self._clock = clock
        self._signal: Signal = signal
        self._traits = SourceTraits(
            name=f"watttime:{signal}",
            zone=zone,
            kind="marginal" if signal == "co2_moer" else "average",
            factor="direct",
            slot_s=300.0,
            lag_s=900.0,
            stale_s=3 * 3600.0,
            forecasts=True,
        )

    @property
    def traits(self) -> SourceTraits:
        """What is always true of it."""
        return self._traits

    async def latest(self, now_s: float) -> CarbonIntensity:
        """Return the newest five minutes."""
        return newest(await self.history(now_s - 7200.0, now_s), now_s, "watttime historical")

    async def history(self, from_s: float, to_s: float) -> Sequence[CarbonIntensity]:
        """Return past figures, asked for in pieces of at most 31 days."""
        found: list[CarbonIntensity] = []
        while from_s < to_s:
            until_s = min(to_s, from_s + _CHUNK_S)
            span = {"start": utc_text(from_s, _STAMP), "end": utc_text(until_s, _STAMP)}
            found += await self._readings("/v3/historical", "measured", **span)
            from_s = until_s
        return found

    async def forecast(self, now_s: float, hours: float) -> Sequence[CarbonIntensity]:
        """Return the forecast, at most 72 h."""
        found = await self._readings("/v3/forecast", "forecast", horizon_hours=f"{min(72, round(hours))}")
        return [r for r in found if r.to_s > now_s]

    async def close(self) -> None:
        """Release connections."""
        await self._http.close()

    async def _readings(self, path: str, status: IntensityStatus, **span: str) -> list[CarbonIntensity]:
        reply = await self._get(path, region=self._traits.zone, signal_type=self._signal, **span)
        meta = reply.meta
        if (meta.region, meta.signal_type) != (self._traits.zone, self._signal):
            raise BadReplyError(
                f"watttime: asked for {self._signal} of {self._traits.zone}, got {meta.signal_type} of {meta.region}"
            )
        factor = _UNITS.get(meta.units)
        if factor is None:
            raise BadReplyError(f"watttime: unit {meta.units!r}, expected {' or '.join(_UNITS)}")
        points = [(utc_s(p.point_time, "watttime point_time"), p.value) for p in reply.data if p.value is not None]
        if not points:
            raise NoValueError(f"watttime {path}: {len(reply.data)} points, none with a value")
        return [
            reading(
                self._traits,
                value * factor,
                from_s=at_s,
                to_s=at_s + meta.data_point_period_seconds,
                status=status,
                fetched_at_s=self._clock.now_s(),
            )
            for at_s, value in sorted(points)
        ]

    async def _get(self, path: str, **params: str) -> _Reply:
        if not self._token:
            await self._log_in()
        try:
            return await self._authorised(path, params)
        except AccessDeniedError:
            # The token may have run out; a fresh one that is refused too is an answer.
            await self._log_in()
            return await self._authorised(path, params)

    async def _authorised(self, path: str, params: dict[str, str]) -> _Reply:
        return await self._http.get(path, _Reply, params=params, headers={"Authorization": f"Bearer {self._token}"})

    async def _log_in(self) -> None:
        login = await self._http.get("/login", _Login, auth=(self._user.reveal(), self._password.reveal()))
        self._token = login.token
