"""Every live client against a stub that plays right answers and everything that goes wrong with such APIs."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

import carbon_stub
import pytest
from carbon_stub import ENVIRONMENT, KEY, PASSWORD, PLAYS, ZONES, Ask, Play, Reply, Stub, edited, stamp

from clover.carbon.chain import SourceChain
from clover.carbon.port import SourceError
from clover.carbon.registry import SOURCES, make_source
from clover.core.carbon import CarbonIntensity
from clover.core.intensity_trace import constant_trace
from clover.errors import ConfigurationError

#: 2026-01-20T12:10:00Z.
NOW_S = 1_768_911_000.0
ALL = sorted(PLAYS)
AVERAGES = [name for name in ALL if name != "watttime"]
LAST = 333.0


class Standing:
    """A clock that a test sets."""

    def __init__(self, at_s: float = NOW_S) -> None:
        self.at_s = at_s

    def now_s(self) -> float:
        return self.at_s

    def now_ms(self) -> float:
        return 1e3 * self.at_s


def truth(at_s: float) -> float:
    return 100.0 + at_s // 300 % 97


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def good(name: str) -> Play:
    return PLAYS[name](lambda: NOW_S, truth)


async def _first(chain: SourceChain) -> CarbonIntensity:
    task = asyncio.create_task(chain.run())
    await chain.ready(20.0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return chain.at(NOW_S)


def first_figure(
    name: str, play: Play, *, url: str | None = None, timeout_s: float = 5.0
) -> tuple[CarbonIntensity, Stub, str]:
    """Ask once over a real socket; return the figure, the stub and why the chain says that it is not live."""

    async def main(address: str) -> tuple[CarbonIntensity, str]:
        clock = Standing()
        source = make_source(name, zone=ZONES[name], url=url or address, clock=clock, timeout_s=timeout_s)
        fallback = None if source.traits.kind == "marginal" else constant_trace(LAST)
        chain = SourceChain(source, clock=clock, rng=Random(0), fallback=fallback)
        figure = await _first(chain)
        return figure, chain.fault

    stub = Stub(play)
    with stub.served() as address:
        figure, fault = asyncio.run(main(address))
    return figure, stub, fault


# --- right answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_right_answer_gives_the_right_figure_with_all_that_belongs_to_it(name: str) -> None:
    figure, stub, fault = first_figure(name, good(name))
    assert figure.g_per_kwh == pytest.approx(truth(figure.from_s), rel=1e-6)
    assert figure.from_s <= NOW_S
    assert figure.zone == ZONES[name]
    assert figure.kind == ("marginal" if name == "watttime" else "average")
    assert figure.factor == ("lifecycle" if name.startswith(("electricitymaps", "eia")) else "direct")
    assert (figure.fallback_level, figure.stale, fault) == (0, False, "")
    assert figure.source.partition(":")[0] in SOURCES or name.startswith("electricitymaps")
    assert figure.fetched_at_s == NOW_S
    age_s = figure.age_s(NOW_S)
    assert age_s is not None
    assert age_s <= (3 * 3600.0 if name == "eia" else 1800.0)
    paths = [ask.path for ask in stub.asked]
    assert ("/v4/carbon-intensity/latest" in paths) == (name == "electricitymaps-v4")


@pytest.mark.parametrize("name", ALL)
def test_history_and_forecast_are_the_sources_own_intervals(name: str) -> None:
    async def main(address: str) -> tuple[list[CarbonIntensity], list[CarbonIntensity]]:
        source = make_source(name, zone=ZONES[name], url=address, clock=Standing())
        past = list(await source.history(NOW_S - 6 * 3600.0, NOW_S))
        ahead = list(await source.forecast(NOW_S, 24.0))
        await source.close()
        return past, ahead

    with Stub(good(name)).served() as address:
        past, ahead = asyncio.run(main(address))
    for figures in (past, ahead) if name != "eia" else (past,):
        assert len(figures) >= 4
        assert all(f.g_per_kwh == pytest.approx(truth(f.from_s), rel=1e-6) for f in figures)
        assert [f.from_s for f in figures] == sorted({f.from_s for f in figures})
    assert all(f.status == "forecast" for f in ahead)
    assert all(f.to_s > NOW_S for f in ahead)
    assert bool(ahead) == (name != "eia")


def test_neso_gives_the_forecast_while_the_actual_value_is_null_and_the_actual_one_later() -> None:
    figure, _, _ = first_figure("neso", good("neso"))
    assert figure.status == "forecast"

    async def main(address: str) -> list[CarbonIntensity]:
        source = make_source("neso", zone="GB", url=address, clock=Standing())
        found = list(await source.history(NOW_S - 7200.0, NOW_S - 3600.0))
        await source.close()
        return found

    with Stub(good("neso")).served() as address:
        assert {f.status for f in asyncio.run(main(address))} == {"estimated"}


@pytest.mark.parametrize("listed", [True, False])
def test_neso_regions_come_as_a_list_or_as_an_object(listed: bool) -> None:
    def shape(_ask: Ask, body: Any) -> Any:
        data = body["data"]
        one = data[0] if isinstance(data, list) else data
        return {"data": [one] if listed else one}

    async def main(address: str) -> CarbonIntensity:
        source = make_source("neso", zone="GB-13", url=address, clock=Standing())
        found = await source.latest(NOW_S)
        assert len(await source.forecast(NOW_S, 24.0)) == 49
        await source.close()
        return found

    stub = Stub(edited(good("neso"), shape))
    with stub.served() as address:
        found = asyncio.run(main(address))
    assert found.zone == "GB-13"
    assert found.g_per_kwh == truth(found.from_s)
    assert stub.asked[-1].path.endswith("/regionid/13")


def test_an_estimate_says_so_and_how() -> None:
    def estimate(ask: Ask, body: Any) -> Any:
        more = {"isEstimated": True, "estimationMethod": "TIME_SLICER_AVERAGE"}
        return {**body, **more} if ask.path.endswith("latest") else body

    figure, _, _ = first_figure("electricitymaps", edited(good("electricitymaps"), estimate))
    assert (figure.status, figure.note, figure.fallback_level) == ("estimated", "TIME_SLICER_AVERAGE", 0)


def test_eia_reads_numbers_as_well_as_strings_and_all_its_pages() -> None:
    play = carbon_stub.eia(lambda: NOW_S, truth, page=7)
    figure, stub, _ = first_figure("eia", edited(play, lambda _, body: _numbers(body)))
    assert figure.g_per_kwh == pytest.approx(truth(figure.from_s))
    offsets = [int(ask.query["offset"]) for ask in stub.asked[:8]]
    assert offsets == [7 * n for n in range(8)]
    # EIA stamps the end of the hour.
    assert figure.observed_to_s == NOW_S // 3600 * 3600 - 7200.0


def _numbers(body: Any) -> Any:
    body["response"]["total"] = int(body["response"]["total"])
    for row in body["response"]["data"]:
        row["value"] = float(row["value"])
    return body


def test_eia_passes_over_an_hour_in_which_a_fuel_is_missing() -> None:
    def partial(_: Ask, body: Any) -> Any:
        rows = body["response"]["data"]
        newest = max(row["period"] for row in rows)
        kept = [r for r in rows if r["period"] != newest or r["fueltype"] != "NG"]
        return {"response": {"total": len(kept), "data": kept}}

    figure, _, _ = first_figure("eia", edited(good("eia"), partial))
    assert figure.observed_to_s == NOW_S // 3600 * 3600 - 3 * 3600.0
    assert figure.g_per_kwh == pytest.approx(truth(figure.from_s))


def test_watttime_logs_in_again_when_its_token_has_run_out() -> None:
    play, refused = good("watttime-average"), list[str]()

    def expire(ask: Ask) -> Reply:
        if ask.path != "/login" and not refused:
            refused.append(ask.path)
            return Reply({"error": "token expired"}, status=401)
        return play(ask)

    figure, stub, _ = first_figure("watttime-average", expire)
    assert figure.fallback_level == 0
    assert [ask.path for ask in stub.asked].count("/login") == 2


def test_the_hour_that_comes_twice_in_denmark_is_two_hours() -> None:
    # 2026-10-25T01:00Z is the second 02:00 of that day in Copenhagen.
    now_s = 1_793_149_800.0 + 3600.0
    play = carbon_stub.energidataservice(lambda: now_s, truth)

    def local(_: Ask, body: Any) -> Any:
        for record in body["records"]:
            at_s = carbon_stub.parse(record["Minutes5UTC"])
            record["Minutes5DK"] = stamp(at_s + (7200 if at_s < 1_793_149_200 else 3600), "%Y-%m-%dT%H:%M:%S")
        return body

    async def main(address: str) -> list[CarbonIntensity]:
        source = make_source("energidataservice", zone="DK1", url=address, clock=Standing(now_s))
        found = list(await source.history(now_s - 3 * 3600.0, now_s))
        await source.close()
        return found

    with Stub(edited(play, local)).served() as address:
        found = asyncio.run(main(address))
    assert all(f.g_per_kwh == truth(f.from_s) for f in found)
    assert {b.from_s - a.from_s for a, b in itertools.pairwise(found)} == {300.0}


# --- everything that goes wrong ---------------------------------------------------------------------------------------


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


# --- what is refused at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "zone", "url", "told"),
    [
        ("solar", "GB", None, "expected trace, neso"),
        ("neso", "FR", None, "expected GB"),
        ("neso", "GB-19", None, "expected GB"),
        ("energidataservice", None, None, "needs a zone"),
        ("energidataservice", "DK3", None, "DK1 or DK2"),
        ("electricitymaps", "D E", None, "zone such as DE"),
        ("eia", "C-ISO", None, "balancing authority"),
        ("neso", "GB", "ftp://x", "expected http"),
        ("neso", "GB", "http://me:secret@x", "expected no user"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(name: str, zone: str, url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as raised:
        make_source(name, zone=zone, url=url, clock=Standing())
    assert "secret" not in str(raised.value)


def test_keys_come_from_the_environment_or_a_file_and_never_show(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("CLOVER_EIA_KEY")
    with pytest.raises(ConfigurationError, match="needs a key") as raised:
        make_source("eia", zone="CISO", url=None, clock=Standing())
    assert "CLOVER_EIA_KEY_FILE" in raised.value.hint
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("CLOVER_EIA_KEY_FILE", str(tmp_path / "key"))
    source = make_source("eia", zone="CISO", url=None, clock=Standing())
    assert KEY not in repr(vars(source))
    monkeypatch.setenv("CLOVER_EIA_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        make_source("eia", zone="CISO", url=None, clock=Standing())


def test_a_marginal_source_takes_no_average_in_its_chain() -> None:
    source = make_source("watttime", zone="CAISO_NORTH", url=None, clock=Standing())
    with pytest.raises(ConfigurationError, match="marginal"):
        SourceChain(source, clock=Standing(), rng=Random(0), fallback=constant_trace(LAST))
