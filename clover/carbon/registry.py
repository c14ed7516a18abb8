"""The live sources by name, and what each of them needs."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from clover.carbon import eia, electricitymaps, energidataservice, neso, watttime
from clover.carbon.factors import load_factors
from clover.carbon.http import TIMEOUT_S, JsonClient
from clover.carbon.port import CarbonSource
from clover.carbon.reading import secret
from clover.core.clock import Clock
from clover.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A live source that can be named on the command line.

    Attributes:
        url: Where it is unless told.
        default_zone: Zone unless told, None if it must be told.
        keys: Environment variables that hold its keys.
        about: One line for people.
    """

    url: str
    default_zone: str | None
    keys: tuple[str, ...]
    about: str


SOURCES: dict[str, SourceKind] = {
    "neso": SourceKind(
        url=neso.URL, default_zone="GB", keys=(), about="Great Britain and its regions (GB, GB-1 to GB-18), half-hourly"
    ),
    "energidataservice": SourceKind(
        url=energidataservice.URL, default_zone=None, keys=(), about="Denmark (DK1, DK2), every five minutes"
    ),
    "electricitymaps": SourceKind(
        url=electricitymaps.URL,
        default_zone=None,
        keys=(electricitymaps.KEY_VARIABLE,),
        about="most of the world, hourly, lifecycle factors (API v3)",
    ),
    "electricitymaps-v4": SourceKind(
        url=electricitymaps.URL,
        default_zone=None,
        keys=(electricitymaps.KEY_VARIABLE,),
        about="the same, newest value from API v4",
    ),
    "watttime": SourceKind(
        url=watttime.URL,
        default_zone=None,
        keys=(watttime.USER_VARIABLE, watttime.PASSWORD_VARIABLE),
        about="MARGINAL rates (co2_moer): to look at, never for the ledger",
    ),
    "watttime-average": SourceKind(
        url=watttime.URL,
        default_zone=None,
        keys=(watttime.USER_VARIABLE, watttime.PASSWORD_VARIABLE),
        about="average rates (co2_aoer), every five minutes",
    ),
    "eia": SourceKind(
        url=eia.URL,
        default_zone=None,
        keys=(eia.KEY_VARIABLE,),
        about="US balancing authorities (CISO, PJM ...), hourly generation x lifecycle factors",
    ),
    "eia-direct": SourceKind(
        url=eia.URL, default_zone=None, keys=(eia.KEY_VARIABLE,), about="the same with direct factors"
    ),
}


def source_kind(name: str) -> SourceKind:
    """Return what is known of a source; raises ConfigurationError naming those that exist."""
    if name not in SOURCES:
        raise ConfigurationError(f"--carbon = {name!r}: expected trace, {', '.join(SOURCES)}")
    return SOURCES[name]


def make_source(
    name: str,
    *,
    zone: str | None,
    url: str | None,
    clock: Clock,
    transport: httpx.AsyncBaseTransport | None = None,
    timeout_s: float = TIMEOUT_S,
) -> CarbonSource:
    """Build a live source; keys come from the environment or from files that it names.

    Raises:
        ConfigurationError: The source, the zone or the address cannot be, or a key is missing.
    """
    kind = source_kind(name)
    where = zone or kind.default_zone
    if where is None:
        raise ConfigurationError(f"--carbon {name} needs a zone: give --carbon-zone ({kind.about})")
    http = JsonClient(
        who=name, base_url=_checked(url or kind.url), clock=clock, transport=transport, timeout_s=timeout_s
    )
    match name:
        case "neso":
            return neso.NesoSource(where, http=http, clock=clock)
        case "energidataservice":
            return energidataservice.EnergiDataServiceSource(where, http=http, clock=clock)
        case "electricitymaps" | "electricitymaps-v4":
            key = secret(electricitymaps.KEY_VARIABLE, name)
            version = 4 if name.endswith("-v4") else 3
            return electricitymaps.ElectricityMapsSource(where, key=key, http=http, clock=clock, version=version)
        case "watttime" | "watttime-average":
            return watttime.WattTimeSource(
                where,
                user=secret(watttime.USER_VARIABLE, name),
                password=secret(watttime.PASSWORD_VARIABLE, name),
                http=http,
                clock=clock,
                signal="co2_moer" if name == "watttime" else "co2_aoer",
            )
        case _:
            factors = load_factors("direct" if name == "eia-direct" else "lifecycle")
            return eia.EiaSource(where, key=secret(eia.KEY_VARIABLE, name), factors=factors, http=http, clock=clock)


def _checked(url: str) -> str:
    parsed = httpx.URL(url)
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigurationError(f"--carbon-url = {url!r}: expected http://host or https://host")
    if parsed.userinfo or parsed.query:
        raise ConfigurationError("--carbon-url: expected no user, password or query; keys come from the environment")
    return url
