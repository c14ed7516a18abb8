"""A load that is known in advance, from the option of `clover up` to the decision that it causes."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import all_answered, clover, events, result_of, up, within

#: The load doubles a minute after it began, at twice the speed half a minute.
DAY = "time_s,rate_rps\n0,5\n60,10\n120,5\n180,5\n"


@pytest.mark.slow
def test_one_file_drives_generator_and_controller(tmp_path: Path) -> None:
    day = tmp_path / "day.csv"
    day.write_text(DAY)
    asked = ("--gpus", "4", "--nodes", "1", "--scheme", "base_rightsized", "--trace", "constant:250")
    load = ("--load-trace", str(day), "--load-profile", str(day), "--speed", "2x", "--scale-to", "10")
    with up(tmp_path, *asked, *load, duration="8s") as process:
        # Twice as fast and scaled, the mean is 10 requests/s and the peak 16: seen ahead of its time.
        within(60, lambda: any("16 ahead" in event["reason"] for event in events(tmp_path, "decision")))
        known = events(tmp_path, "load")
        result = result_of(process)
    assert [(event["kind"], event["subject"]) for event in known] == [("load.known", "10 requests/s on average")]
    assert "at 2x scaled to 10 requests/s" in result["arrivals"]
    all_answered(result, least=30)


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        (("up", "--no-tui"), "time_s\n0\n1\n", "single arrivals, expected rates over time"),
        (("agent", "controller", "--wait", "1s"), DAY.replace("10", "ten"), "rate_rps = 'ten', expected a number"),
    ],
)
def test_a_profile_that_cannot_be_is_said_before_anything_starts(
    tmp_path: Path, command: tuple[str, ...], text: str, message: str
) -> None:
    day = tmp_path / "day.csv"
    day.write_text(text)
    answer = clover(tmp_path, *command, "--load-profile", str(day))
    assert answer.returncode == 3, answer.stderr
    assert message in answer.stderr
    assert not list(tmp_path.glob("*.json"))
