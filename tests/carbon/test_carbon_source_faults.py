"""Every live client against a stub that plays everything that goes wrong with such APIs."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import carbon_stub
import pytest
from asked_source import LAST, NOW_S, Standing, first_figure, good, truth
from carbon_stub import KEY, PASSWORD, PLAYS, ZONES, Ask, Play, Reply, Stub, edited

from clover.carbon.port import SourceError
from clover.carbon.registry import make_source

pytestmark = pytest.mark.usefixtures("keys")

AVERAGES = [name for name in sorted(PLAYS) if name != "watttime"]


def _nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_nulls(item) for item in value]
    if isinstance(value, dict):
        names = {"forecast", "actual", "CO2Emission", "carbonIntensity", "value"}
        return {k: None if k in names and not isinstance(v, (list, dict)) else _nulls(v) for k, v in value.items()}
    return value


def _empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: [] if isinstance(v, list) else _empty(v) for k, v in value.items()}
    return value


def _replaced(value: Any, names: set[str], new: Any) -> Any:
    if isinstance(value, list):
        return [_replaced(item, names, new) for item in value]
    if isinstance(value, dict):
        return {k: new if k in names else _replaced(v, names, new) for k, v in value.items()}
    return value


def _always(reply: Reply) -> Callable[[str], Play]:
    return lambda _name: lambda _ask: copy.copy(reply)


def _changed(edit: Callable[[Any], Any]) -> Callable[[str], Play]:
    return lambda name: edited(good(name), lambda ask, body: body if ask.path == "/login" else edit(body))


FAULTS: dict[str, tuple[Callable[[str], Play], str]] = {
    "null value": (_changed(_nulls), "n"),
    "429 with Retry-After": (_always(Reply(status=429, headers={"Retry-After": "120"})), "HTTP 429"),
    "429 without": (_always(Reply(status=429)), "HTTP 429"),
    "429 with a date": (
        _always(Reply(status=429, headers={"Retry-After": "Tue, 20 Jan 2026 12:15:00 GMT"})),
        "HTTP 429",
    ),
    "500": (_always(Reply({"error": {"message": "oh"}}, status=500)), "HTTP 500"),
    "403": (_always(Reply({"error": "zone not in plan"}, status=403)), "HTTP 403"),
    "401": (_always(Reply({"error": "who are you"}, status=401)), "HTTP 401"),
    "404": (_always(Reply({}, status=404)), "HTTP 404"),
    "HTML with 200": (_always(Reply(b"<!doctype html><title>Maintenance</title>")), "<!doctype"),
    "XML acknowledgement with 200": (
        _always(Reply(b"<?xml version='1.0'?><Acknowledgement_MarketDocument/>")),
        "Acknowledgement",
    ),
    "truncated JSON": (_always(Reply(b'{"data": [{"from": "2026-01-')), "begins with"),
    "the connection is cut": (lambda name: _with(good(name), cut=True), "cut off"),
    "slow body": (lambda name: _with(good(name), slow=True), "no complete answer in 0.4 s"),
    "another shape": (_always(Reply([1, 2, 3])), "Expected `object`"),
    "no value that a grid can have": (
        _changed(lambda b: _replaced(b, {"forecast", "actual", "CO2Emission", "carbonIntensity", "value"}, -9000.0)),
        # EIA gives weights, not an intensity: negative ones are nothing generated.
        "",
    ),
    "a stamp that is none": (
        _changed(lambda b: _replaced(b, {"from", "Minutes5UTC", "datetime", "point_time", "period"}, "noon")),
        "not a time",
    ),
}


def _with(play: Play, **changes: bool) -> Play:
    def changed(ask: Ask) -> Reply:
        reply = play(ask)
        for name, value in changes.items():
            setattr(reply, name, value)
        return reply

    return changed


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("name", AVERAGES)
def test_a_fault_ends_in_a_stated_fallback(name: str, fault: str) -> None:
    make, told = FAULTS[fault]
    figure, _, why = first_figure(name, make(name), timeout_s=0.4 if fault == "slow body" else 5.0)
    assert (figure.g_per_kwh, figure.status, figure.fallback_level, figure.stale) == (LAST, "assumed", 4, True)
    assert figure.source == f"fallback:constant:{LAST:g}"
    assert figure.zone == ZONES[name]
    assert told in why
    assert figure.note == why
    assert KEY not in why
    assert PASSWORD not in why


@pytest.mark.parametrize("name", AVERAGES)
def test_an_empty_list_and_a_refused_connection(name: str) -> None:
    figure, _, why = first_figure(name, edited(good(name), lambda ask, b: b if ask.path == "/login" else _empty(b)))
    # The newest hour of Electricity Maps is not in a list.
    assert (figure.fallback_level == 0) == name.startswith("electricitymaps"), why
    figure, _, why = first_figure(name, good(name), url="http://127.0.0.1:9")
    assert figure.fallback_level == 4
    assert "refused" in why


ZONE_FIELD = {
    "energidataservice": "PriceArea",
    "electricitymaps": "zone",
    "electricitymaps-v4": "zone",
    "watttime-average": "region",
    "eia": "respondent",
}


@pytest.mark.parametrize("name", sorted(ZONE_FIELD))
def test_another_zone_in_the_answer_is_refused(name: str) -> None:
    play = edited(good(name), lambda ask, b: b if ask.path == "/login" else _replaced(b, {ZONE_FIELD[name]}, "FR"))
    figure, _, why = first_figure(name, play)
    assert figure.fallback_level == 4
    assert "FR" in why


def test_another_region_of_great_britain_is_refused() -> None:
    async def main(address: str) -> None:
        source = make_source("neso", zone="GB-13", url=address, clock=Standing())
        try:
            await source.latest(NOW_S)
        finally:
            await source.close()

    stub = Stub(edited(good("neso"), lambda _, b: _replaced(b, {"regionid"}, 4)))
    with stub.served() as address, pytest.raises(SourceError, match="asked for region 13"):
        asyncio.run(main(address))


def test_another_unit_is_refused() -> None:
    play = edited(good("watttime-average"), lambda _, b: _replaced(b, {"units"}, "kg_per_kwh"))
    _, _, why = first_figure("watttime-average", play)
    assert "kg_per_kwh" in why


def test_a_figure_of_three_hours_ago_is_not_passed_off_as_live() -> None:
    play = carbon_stub.electricitymaps(lambda: NOW_S - 3 * 3600.0, truth)
    figure, _, _ = first_figure("electricitymaps", play)
    assert figure.fallback_level == 2
    assert figure.status == "forecast"
    assert figure.g_per_kwh == truth(NOW_S // 3600 * 3600)


def test_figures_of_a_sandbox_key_are_refused() -> None:
    play = edited(good("electricitymaps"), lambda _, b: {**b, "_disclaimer": "random data of a sandbox key"})
    figure, _, why = first_figure("electricitymaps", play)
    assert figure.fallback_level == 4
    assert "sandbox" in why


def test_an_account_without_forecasts_is_asked_for_them_once() -> None:
    play = good("electricitymaps")

    def no_forecast(ask: Ask) -> Reply:
        return Reply({"error": "not in your plan"}, status=403) if ask.path.endswith("forecast") else play(ask)

    async def main(address: str) -> None:
        source = make_source("electricitymaps", zone="DE", url=address, clock=Standing())
        assert list(await source.forecast(NOW_S, 24.0)) == list(await source.forecast(NOW_S, 24.0)) == []
        await source.close()

    stub = Stub(no_forecast)
    with stub.served() as address:
        asyncio.run(main(address))
    assert len(stub.asked) == 1
