"""A load that is known in advance: rates between two moments, from a file, by the time of day or with a generator."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.load_profile_options import LoadProfileChoice
from clover.core.arrivals import RateProfile
from clover.core.load_profile import LoadProfile
from clover.errors import CloverError

DAY = "time_s,rate_rps\n0,5\n25200,40\n64800,10\n"


def choice(folder: Path, text: str = DAY, **options: object) -> LoadProfileChoice:
    path = folder / "day.csv"
    path.write_text(text)
    return LoadProfileChoice(file=path, **options)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    rates=st.lists(st.integers(0, 50), min_size=6, max_size=6),
    begins=st.integers(-40, 40),
    from_s=st.integers(-50, 300),
    length_s=st.integers(0, 150),
    repeats=st.booleans(),
)
def test_the_highest_rate_is_the_highest_of_all_moments(
    widths: list[int], rates: list[int], begins: int, from_s: int, length_s: int, repeats: bool
) -> None:
    starts = tuple(float(sum(widths[:part])) for part in range(len(widths)))
    wanted = tuple(float(rate) for rate in [1, *rates][: len(widths)])
    profile = LoadProfile(RateProfile(starts, wanted, float(sum(widths)), repeats=repeats), float(begins))
    moments = [profile.at(float(moment)) for moment in range(from_s, from_s + length_s + 1)]
    assert profile.highest(float(from_s), float(from_s + length_s)) == max(moments)


def test_a_day_by_the_clock_is_like_every_other_and_its_last_row_holds_until_midnight(tmp_path: Path) -> None:
    rates = choice(tmp_path).rates()
    assert rates is not None
    profile = LoadProfile(rates)
    midnight = 1_614_556_800.0  # 2021-03-01T00:00:00Z
    by_hour = [(0, 5.0), (6, 5.0), (7, 40.0), (17, 40.0), (18, 10.0), (23, 10.0), (24, 5.0), (31, 40.0)]
    assert [(hour, profile.at(midnight + 3600.0 * hour)) for hour, _ in by_hour] == by_hour
    assert profile.highest(midnight + 24_900.0, midnight + 25_200.0) == 40.0


def test_with_a_generator_it_is_what_the_same_file_and_options_make_that_one_send(tmp_path: Path) -> None:
    known = choice(tmp_path, begins="generator", speed="60x", scale_to_rps=25.0)
    rates = known.rates()
    assert rates is not None
    # The trace ends as long after its last row as that came after the one before.
    assert (rates.starts_s, rates.end_s) == ((0.0, 420.0, 1080.0), 1740.0)
    assert rates.mean_rps == pytest.approx(25.0)
    assert rates.rates_rps[1] / rates.rates_rps[0] == pytest.approx(8.0)
    assert known.arguments() == [
        *("--load-profile", str(tmp_path / "day.csv"), "--load-profile-begins", "generator"),
        *("--speed", "60x", "--scale-to", "25.0"),
    ]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("time_s,rate_rps\n0,5\n3600,-1\n", {}, "line 3: rate_rps = -1, expected a number of at least 0"),
        ("time_s,rate_rps\n0,5\n3600,many\n", {}, "line 3: rate_rps = 'many', expected a number"),
        ("time_s\n0\n1\n", {}, "single arrivals, expected rates over time"),
        ("hour,rate\n0,5\n", {}, "expected time_s, time_s,rate_rps"),
        ("time_s,rate_rps\n3600,5\n7200,6\n", {}, "time_s = 3600 in the first row, expected 0, which is midnight UTC"),
        ("time_s,rate_rps\n0,5\n86400,6\n", {}, "time_s = 86400 in the last row, expected below 86400"),
        (DAY, {"speed": "180x"}, "--speed = 180 with a --load-profile that begins at midnight: expected 1"),
        (DAY, {"begins": "noon"}, "--load-profile-begins = 'noon': expected one of midnight, generator"),
        (DAY, {"scale_to_rps": 0.0}, "--scale-to"),
    ],
)
def test_what_cannot_be_is_told_with_field_value_and_what_was_expected(
    tmp_path: Path, text: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(CloverError, match=message):
        choice(tmp_path, text, **options).rates()


def test_without_a_file_nothing_is_known_and_options_of_one_are_refused(tmp_path: Path) -> None:
    assert LoadProfileChoice().rates() is None
    assert LoadProfileChoice(speed="60x").arguments() == []
    with pytest.raises(CloverError, match="expected a --load-profile with it"):
        LoadProfileChoice(begins="midnight").rates()
    with pytest.raises(CloverError, match="none.csv: No such file"):
        LoadProfileChoice(file=tmp_path / "none.csv").rates()
