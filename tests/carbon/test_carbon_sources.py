"""Every live client against a stub that plays right answers, and what is refused before anything is asked."""

from __future__ import annotations

import asyncio
import itertools
from random import Random
from typing import Any

import carbon_stub
import pytest
from asked_source import LAST, NOW_S, Standing, first_figure, good, truth
from carbon_stub import KEY, PLAYS, ZONES, Ask, Reply, Stub, edited, stamp

from clover.carbon.chain import SourceChain
from clover.carbon.registry import SOURCES, make_source
from clover.core.carbon import CarbonIntensity
from clover.core.intensity_trace import constant_trace
from clover.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("keys")

ALL = sorted(PLAYS)


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
