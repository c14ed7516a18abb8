"""Import of other people's files: small ones of our own with every trap, and two real years where they are there."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest

from clover.carbon.dialects import Options, read_table
from clover.carbon.factors import EmissionFactors, load_factors
from clover.carbon.importing import ImportReport, import_table
from clover.catalog import load_trace
from clover.core.forecast import forecast_error, persistence, persistence_pairs
from clover.core.intensity_trace import IntensityTrace, parse_trace, write_trace
from clover.errors import TraceError

LIFECYCLE = load_factors("lifecycle")


def _import(text: str, *, options: Options | None = None, **rules: Any) -> tuple[IntensityTrace, ImportReport]:
    chosen = options or Options(factors=LIFECYCLE)
    return import_table(read_table(text, name="small.csv", options=chosen), name="small", zone="X", **rules)


NESO = """Datetime (UTC),Actual Carbon Intensity (gCO2/kWh),Forecast Carbon Intensity (gCO2/kWh),Index
2021-01-01T00:00Z,100,110,low
2021-01-01T01:00Z,,130,low
2021-01-01T02:00Z,160,150,low
2021-01-01T03:30Z,170,150,low
2021-01-01T05:00Z,200,210,low
2021-01-01T05:00Z,210,210,low
2021-01-01T05:20Z,999,210,low
2021-01-01T06:00Z,200,210,low
2021-01-01T06:00Z,200,210,low
2021-01-01T08:00Z,240,200,low
2021-01-01T07:00Z,220,200,low
"""


def test_every_trap_is_reported_and_filled_by_its_rule() -> None:
    trace, report = _import(NESO)
    assert (report.dialect, report.factor, report.rows, report.intervals) == ("neso", "direct", 11, 9)
    assert (report.blank, report.absent) == (1, 1)
    assert (report.interpolated, report.repeated) == (2, 0)
    assert (report.off_grid, report.off_grid_dropped) == (1, 1)
    assert (report.duplicates, report.conflicts, report.unordered) == (1, 1, 1)
    assert [(gap.kind, gap.from_, gap.intervals) for gap in report.gaps] == [
        ("blank", "2021-01-01T01:00:00Z", 1),
        ("absent", "2021-01-01T04:00:00Z", 1),
    ]
    assert trace.values_g_per_kwh == (100, 130, 160, 170, 190, 210, 200, 220, 240)
    assert trace.forecasts_g_per_kwh == (110, 130, 150, 150, 180, 210, 210, 200, 200)
    assert trace.statuses[1] == trace.statuses[4] == "interpolated"
    assert trace.started_at == "2021-01-01T00:00:00Z"
    error = report.published_forecast
    assert error is not None
    assert (error.pairs, error.mean_absolute_g_per_kwh) == (7, pytest.approx((10 + 10 + 20 + 0 + 10 + 20 + 40) / 7))
    assert parse_trace(write_trace(trace), name="small") == trace


def _hours(count: int, missing: range, start: str = "2022-01-{:02d}T{:02d}:00+00:00") -> str:
    rows = [f"{start.format(1 + n // 24, n % 24)},{'' if n in missing else 100 + n % 24}" for n in range(count)]
    return "timestamp,ci\n" + "\n".join(rows)


def test_a_long_gap_repeats_the_day_before_and_one_at_the_beginning_the_day_after() -> None:
    options = Options(column="ci")
    trace, report = _import(_hours(96, range(40, 70)), options=options)
    assert trace.values_g_per_kwh == tuple(100 + n % 24 for n in range(96))
    assert (report.repeated, report.interpolated, report.blank) == (30, 0, 30)
    trace, report = _import(_hours(72, range(5)), options=options)
    assert trace.values_g_per_kwh == tuple(100 + n % 24 for n in range(72))
    assert report.gaps[0].filled == "repeated"
    with pytest.raises(TraceError, match="1 gaps, the first from 2022-01-02T16:00:00Z for 30 h"):
        _import(_hours(96, range(40, 70)), options=options, refuse_gaps=True)
    with pytest.raises(TraceError, match="nothing to fill"):
        _import(_hours(30, range(10)), options=options)


def test_half_hours_stay_half_hours() -> None:
    rows = "\n".join(f"2022-01-01T{n // 2:02d}:{30 * (n % 2):02d}Z,{n}" for n in range(8))
    trace, report = _import(f"datetime,ci\n{rows}", options=Options(column="ci"))
    assert (trace.step_h, report.intervals) == (0.5, 8)
    again = parse_trace(write_trace(trace), name="small")
    assert again == trace
    assert again.at(1805.0, started_s=0.0, hour_s=3600.0).g_per_kwh == 1.0


def test_eia_generation_becomes_an_intensity_and_end_stamps_are_moved() -> None:
    text = (
        "UTC Time at End of Hour,NG: COL,NG: NG,NG: NUC,NG: WND\n"
        "2022-01-01T01:00,0,50,50,0\n2022-01-01T02:00,100,0,0,-3\n2022-01-01T03:00,,1,1,1\n2022-01-01T04:00,0,0,100,0\n"
    )
    trace, report = _import(text)
    assert (report.dialect, trace.factor) == ("eia930", "lifecycle")
    assert trace.values_g_per_kwh == pytest.approx(((490 + 12) / 2, 820, (820 + 12) / 2, 12))
    assert trace.started_at == "2022-01-01T00:00:00Z"
    assert report.blank == 1


def test_electricity_maps_has_two_columns() -> None:
    text = (
        "Datetime (UTC),Country,Zone id,Carbon intensity gCO\u2082eq/kWh (direct),"
        "Carbon intensity gCO\u2082eq/kWh (Life cycle)\n"
        "2022-01-01 00:00:00,Germany,DE,300,350\n2022-01-01 01:00:00,Germany,DE,310,360\n"
    )
    assert _import(text)[0].values_g_per_kwh == (350, 360)
    direct = Options(factor="direct", factors=load_factors("direct"))
    trace, report = _import(text, options=direct)
    assert (trace.values_g_per_kwh, trace.factor, report.dialect) == ((300, 310), "direct", "electricitymaps")


def test_local_times_need_a_zone_and_the_hour_that_comes_twice_is_two_hours() -> None:
    autumn = "datetime,ci\n" + "\n".join(
        f"2026-10-25 {hour:02d}:00,{value}" for hour, value in ((1, 10), (2, 20), (2, 25), (3, 30))
    )
    with pytest.raises(TraceError, match="line 2: .*--timezone"):
        _import(autumn, options=Options(column="ci"))
    trace, report = _import(autumn, options=Options(column="ci", timezone="Europe/Copenhagen"))
    assert trace.values_g_per_kwh == (10, 20, 25, 30)
    assert (report.duplicates, report.conflicts) == (0, 0)
    assert trace.started_at == "2026-10-24T23:00:00Z"
    spring = "datetime,ci\n2026-03-29 01:00,1\n2026-03-29 02:00,2\n2026-03-29 03:00,3\n"
    with pytest.raises(TraceError, match="line 3: 2026-03-29 02:00:00 does not exist in Europe/Copenhagen"):
        _import(spring, options=Options(column="ci", timezone="Europe/Copenhagen"))
    with pytest.raises(TraceError, match="--timezone = 'Mars/Crater'"):
        _import(spring, options=Options(column="ci", timezone="Mars/Crater"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no rows"),
        ("a,b\n1,2\n", "no column of times"),
        ("datetime,b\n2022-01-01T00:00Z,2\n", "no known dialect"),
        ("datetime,ci\n2022-01-01T00:00Z,two\n", "line 2: 'two' is not a number"),
        ("datetime,ci\n2022-01-01T00:00Z,inf\n", "line 2: 'inf' is not a finite"),
        ("datetime,ci\n2022-01-01T00:00Z,5000\n", "line 2: intensity_g_per_kwh = 5000"),
        ("datetime,ci\n2022-01-01T00:00Z,1\nnoon,1\n", "line 3: 'noon' is not a time"),
        ("datetime,ci\n2022-01-01T00:00Z\n", "line 2: 1 columns, expected 2"),
        ("datetime,ci\n2022-01-01T00:00Z,1\n", "one row"),
        ("datetime,ci\n2022-01-01T00:00Z,1\n2022-01-03T00:00Z,1\n", "2880 min apart"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, told: str) -> None:
    options = Options(column="ci") if ",ci" in text else Options(factors=LIFECYCLE)
    with pytest.raises(TraceError, match=told):
        _import(text, options=options)
    with pytest.raises(TraceError, match="no column 'other'"):
        _import("datetime,ci\n2022-01-01T00:00Z,1\n", options=Options(column="other"))


def test_forecasts_from_the_past_have_a_measured_band() -> None:
    day = {h * 3600.0 + d * 86_400.0: 100.0 + h + 10.0 * d for d in range(3) for h in range(24)}
    found = persistence(day, from_s=3 * 86_400.0, step_s=3600.0, steps=26)
    assert len(found) == 26
    assert found[5].g_per_kwh == 125.0
    low, high = found[0].low_g_per_kwh, found[0].high_g_per_kwh
    assert low is not None
    assert high is not None
    assert 120.0 < low < high < 140.0
    pairs = persistence_pairs(day)
    assert len(pairs) == 48
    error = forecast_error(pairs)
    assert error is not None
    assert error.mean_absolute_g_per_kwh == pytest.approx(10.0)
    assert forecast_error([]) is None
    assert persistence({}, from_s=0.0, step_s=3600.0, steps=3) == []
    assert [p.low_g_per_kwh for p in persistence({0.0: 5.0}, from_s=86_400.0, step_s=3600.0, steps=1)] == [None]


def test_factors_name_a_source_each_and_storage_counts_neither_way() -> None:
    for name in ("lifecycle", "direct"):
        factors = load_factors(name)
        assert all(len(source) > 10 for source in factors.sources.values())
        assert factors.intensity({"NG": 0.0, "BAT": 50.0}) is None
    assert LIFECYCLE.intensity({"COL": 1.0, "BAT": 100.0}) == 820.0
    assert LIFECYCLE.intensity({"XYZ": 1.0}) == 230.0


# --- two real years ---------------------------------------------------------------------------------------------------


def _long(name: str) -> str:
    folder = os.environ.get("CLOVER_LONG_TRACES", "")
    if not folder:
        pytest.skip("CLOVER_LONG_TRACES names no folder with year-long series")
    return (Path(folder) / name).read_text()


def _with(factors: EmissionFactors, **changes: float) -> EmissionFactors:
    return dataclasses.replace(factors, g_per_kwh={**factors.g_per_kwh, **changes})


def test_long_trace_of_pjm() -> None:
    text = _long("pjm-2022-eia930.csv")
    given, report = _import(text, options=Options(column="avg_CI"))
    assert (report.rows, report.intervals, report.blank, report.absent) == (8760, 8760, 23, 0)
    assert [gap.intervals for gap in report.gaps] == [22, 1]
    assert (report.repeated, report.interpolated) == (22, 1)
    # The file's own column was made with rooftop instead of utility solar; with that, ours has the same digits.
    ours, mixed = _import(text, options=Options(factors=_with(LIFECYCLE, SUN=41.0)))
    assert mixed.blank == 23
    assert all(
        math.isclose(a, b, rel_tol=1e-12) for a, b in zip(ours.values_g_per_kwh, given.values_g_per_kwh, strict=True)
    )


def test_long_trace_of_great_britain() -> None:
    trace, report = _import(_long("gb-2021-neso-actual-forecast.csv"))
    assert (report.rows, report.intervals) == (8732, 8760)
    assert report.blank == 66
    assert sorted(gap.intervals for gap in report.gaps if gap.kind == "blank") == [14, 52]
    assert [(g.from_, g.intervals) for g in report.gaps if g.kind == "absent"] == [
        ("2021-04-19T23:00:00Z", 1),
        ("2021-12-26T16:00:00Z", 27),
    ]
    assert report.irregular_steps == [
        ("2021-04-19T17:00:00Z", 1.5),
        ("2021-04-19T19:30:00Z", 0.5),
        ("2021-04-19T22:00:00Z", 2.0),
        ("2021-12-26T15:00:00Z", 28.0),
    ]
    assert (report.off_grid, report.off_grid_dropped, report.duplicates, report.conflicts) == (2, 0, 0, 0)
    published, persisted = report.published_forecast, report.persistence
    assert published is not None
    assert persisted is not None
    assert published.pairs == 8666
    assert (round(published.of_mean_pct, 1), round(published.mean_absolute_pct, 1)) == (4.8, 5.4)
    assert persisted.of_mean_pct > 3.0 * published.of_mean_pct
    assert len(trace.forecasts_g_per_kwh) == len(trace.values_g_per_kwh) == 8760


@pytest.mark.parametrize("name", ["pjm-2022-eia930.csv", "gb-2021-neso-actual-forecast.csv"])
def test_long_trace_as_a_file_is_a_trace(name: str, tmp_path: Path) -> None:
    trace, _ = _import(_long(name))
    file = tmp_path / "year.csv"
    file.write_text(write_trace(trace))
    again = load_trace(str(file))
    assert again == dataclasses.replace(trace, name="year")
