"""Keys, pages, scrolling, filters and recordings, without a terminal."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from view_messages import (
    a_ledger,
    a_log,
    a_node,
    a_plan,
    a_record,
    a_running_view,
    an_event,
    an_intensity,
    at,
    mixed_gpus,
)

from cli.dashboard import ViewOptions, view
from cli.dashboard_charts import Chart, bars, columns_of
from cli.dashboard_control import command_for
from cli.dashboard_help import CONTROL_KEYS, KEYS
from cli.dashboard_keys import Looking, keys_of, press
from cli.dashboard_options import PAGES, WINDOWS_S, passes, scrolled
from cli.dashboard_record import Recorder, Replay
from clover.analysis.view import DeploymentView
from clover.errors import ConfigurationError


def pressed(*keys: str, most: int = 0, **options: object) -> Looking:
    looking = Looking(options=dataclasses.replace(ViewOptions(), **options))  # type: ignore[arg-type]
    for key in keys:
        looking = press(looking, key, most)
    return looking


def test_bytes_become_keys() -> None:
    assert keys_of("q\x1b[A\x1b[6~\x1bOB?\t\r\x1b") == ["q", "up", "page-down", "down", "?", "tab", "enter", "escape"]
    assert keys_of("\x1b[99;5Zx") == ["x"]


def test_numbers_and_tab_choose_pages() -> None:
    assert [pressed(str(n)).options.page for n in range(1, 6)] == list(PAGES)
    assert pressed("tab").options.page == "gpus"
    assert pressed("back-tab").options.page == "log"
    assert pressed("9").options.page == "overview"
    assert pressed("down", "2", most=9).options.scroll == 0


def test_scrolling_stays_within_the_list() -> None:
    assert pressed("up", most=5).options.scroll == 0
    assert pressed("down", "j", most=5).options.scroll == 2
    assert pressed("page-down", most=5).options.scroll == 5
    assert pressed("end", "k", most=5).options.scroll == 4
    assert pressed("end", "home", most=5).options.scroll == 0


def test_the_window_has_two_ends() -> None:
    assert [pressed(*["+"] * n).options.window_s for n in range(5)] == [300.0, 900.0, 3600.0, 3600.0, 3600.0]
    assert pressed("-", "-", "-").options.window_s == WINDOWS_S[0]


def test_a_filter_is_typed_corrected_and_left() -> None:
    asked = pressed("/", "n", "q", "rub-out", "1")
    assert asked.options.prompt is not None
    assert "n1_" in asked.options.prompt
    assert asked.actions == ()
    done = press(asked, "enter", 0)
    assert (done.options.filter, done.options.prompt) == ("n1", None)
    assert press(asked, "escape", 0).options.filter == ""
    assert press(done, "escape", 0).options.filter == ""


def test_pause_help_save_record_and_quit() -> None:
    assert pressed("p").options.paused
    assert not pressed("p", "space").options.paused
    assert pressed("?").options.help
    assert pressed("s", "r", "q").actions == ("save", "record", "quit")


def test_nothing_changes_the_deployment_without_control_or_without_yes() -> None:
    assert pressed("c", "y", "n", "y", "x", "y").actions == ()
    assert "--control" in pressed("c").options.notice
    assert pressed("c", "n", control=True).actions == ()
    assert pressed("c", "enter", control=True).actions == ()
    assert pressed("c", "y", control=True).actions == ("pause",)
    assert pressed("n", "y", control=True).actions == ("pin",)
    asked = pressed("x", "n", "1", "/", "3", "enter", control=True)
    assert asked.actions == ()
    assert asked.options.prompt is not None
    assert "park n1/3" in asked.options.prompt
    assert press(asked, "y", 0).actions == ("park n1/3",)


def test_filters_and_scrolling() -> None:
    assert passes("n1/0 serving", "SERV")
    assert not passes("n1/0 serving", "!serv")
    part = scrolled(100, 30, 90)
    assert (part.first, part.end, part.most, part.note) == (70, 100, 70, "71-100 of 100")
    assert scrolled(5, 30, 2).note == ""


def text(page: str, width: int = 120, height: int = 40, *, gpus: int = 10, **options: object) -> str:
    looking = dataclasses.replace(ViewOptions(page=page), **options)  # type: ignore[arg-type]
    frame = view(a_running_view(gpus=gpus, seconds=5).snapshot(at(5.5)), width, height, looking)
    return "\n".join(line.plain for line in frame.lines)


def test_a_hundred_gpus_are_scrolled_through() -> None:
    first = text("gpus", 80, 24, gpus=100)
    assert "n1/0 " in first
    assert "of 100" in first
    assert "n2/49" not in first
    assert "n2/49" in text("gpus", 80, 24, gpus=100, scroll=10_000)
    wide = text("gpus", 200, 60, gpus=100)
    assert "n1/0 " in wide
    assert "n2/49" in wide


def test_a_filter_leaves_what_contains_it() -> None:
    failed = text("gpus", gpus=18, filter="failed")
    assert "FAILED" in failed
    assert "parked 6 s" not in failed.split("GPUs by node")[1]
    assert "gpu.failed" in text("log", filter="killed")
    assert "generator.started" not in text("log", filter="killed")
    assert "nothing contains 'zzz'" in text("log", filter="zzz")


def test_the_decision_page_compares_prediction_and_measurement() -> None:
    page = text("decisions")
    for words in ("because", "intensity x PUE went from 187 to 223", "predicted", "measured", "beat", "7g:xxlarge"):
        assert words in page
    assert "85.20 %" in page


def test_charts_draw_a_threshold_and_what_is_above() -> None:
    rows = bars(Chart(title="", now="", columns=[1.0, 4.0, None, float("inf")], threshold=2.0, over=True), 4)
    assert all(len(row.plain) == 4 for row in rows)
    assert any("┄" in row.plain for row in rows)
    bad = {str(span.style) for row in rows for span in row.spans}
    assert "bold red" in bad


def test_columns_cover_the_window_with_the_newest_at_the_right() -> None:
    slots = a_running_view(seconds=120).snapshot(at(120.5)).slots
    columns = columns_of(slots, 60.0, 24, lambda slot: slot.rate_rps)
    assert columns == [10.0] * 24
    assert columns_of((), 60.0, 24, lambda slot: slot.rate_rps) == []


def test_keys_run_the_command_that_does_it_or_takes_it_back() -> None:
    pin = SimpleNamespace(node="n1", gpu=SimpleNamespace(index=3))
    free, held = SimpleNamespace(paused=False, pins=()), SimpleNamespace(paused=True, pins=(pin,))
    assert command_for("pause", None)[:2] == command_for("pause", free)[:2] == ["plan", "pause"]
    assert command_for("pause", held) == ["plan", "resume"]
    assert (command_for("pin", free)[:2], command_for("pin", held)) == (["plan", "pin"], ["plan", "unpin"])
    assert command_for("park n1/3", free)[:5] == ["plan", "pin", "n1/gpu3", "--as", "parked"]
    assert command_for("park n1/gpu3", held) == ["plan", "unpin", "n1/gpu3"]
    assert command_for("park n1/4", held)[1] == "pin"


# --- recordings


def a_recording(folder: Path) -> Path:
    recorder = Recorder("demo", folder)
    recorder.take(a_node("n1", *mixed_gpus(3)), now_ms=at(0.0))
    recorder.value("plan", a_plan(), now_ms=at(0.0))
    recorder.value("agents", {"controller:c1": 0.5}, now_ms=at(0.0))
    said = recorder.toggle()
    assert recorder.recording
    recorder.take(an_event(0.1, "generator.started"), now_ms=at(0.1))
    recorder.take(an_intensity(), now_ms=at(0.2))
    for second in range(1, 21):
        recorder.take(a_log(*[a_record(second - 0.5, 100.0)] * 10), now_ms=at(second))
        recorder.take(a_ledger(second, 700.0 * second), now_ms=at(second))
    recorder.value("plan", a_plan(), now_ms=at(20.0))
    assert "recorded" in recorder.toggle()
    return Path(said.removeprefix("recording into ").partition(";")[0])


def test_a_recording_is_shown_as_it_was(tmp_path: Path) -> None:
    path = a_recording(tmp_path)
    replay = Replay(path, 1.0)
    replay.all()
    snapshot = replay.view.snapshot(replay.now_ms())
    assert replay.deployment == "demo"
    assert snapshot.at_ms == at(20.0)
    assert snapshot.outcomes["ok"] == 200
    assert (snapshot.epoch, len(snapshot.nodes[0].gpus)) == (7, 3)
    assert snapshot.controller_silent_s == pytest.approx(20.5)
    # The plan had not changed, so it is there once.
    assert path.read_text().count('"value":"plan"') == 1


def test_a_replay_keeps_time(tmp_path: Path) -> None:
    replay = Replay(a_recording(tmp_path), 1000.0)
    asyncio.run(replay.play(asyncio.Event()))
    assert replay.ended
    assert replay.view.snapshot(replay.now_ms()).outcomes["ok"] == 200


def test_a_replay_can_be_stopped(tmp_path: Path) -> None:
    async def scenario() -> bool:
        stop = asyncio.Event()
        replay = Replay(a_recording(tmp_path), 0.001)
        stop.set()
        await replay.play(stop)
        return replay.ended

    assert not asyncio.run(scenario())


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    for content in ("", '{"what": "something else"}\n', "garbage\n"):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match="not a recording"):
            Replay(path, 1.0)
    with pytest.raises(ConfigurationError, match="No such file"):
        Replay(tmp_path / "nowhere", 1.0)


def test_a_recording_that_was_cut_off_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    path = a_recording(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    replay = Replay(path, 1.0)
    replay.all()
    assert replay.view.snapshot(replay.now_ms()).outcomes["ok"] == 200


def test_a_line_that_says_nonsense_is_told_with_the_file(tmp_path: Path) -> None:
    path = a_recording(tmp_path)
    path.write_text(path.read_text() + json.dumps({"at_ms": 1.0, "t": "event", "d": {"kind": 3}}) + "\n")
    with pytest.raises(ConfigurationError, match="a line cannot be read"):
        Replay(path, 1.0).all()


def test_an_unwritable_folder_is_said(tmp_path: Path) -> None:
    recorder = Recorder("demo", tmp_path / "nowhere")
    assert "cannot record" in recorder.toggle()
    assert not recorder.recording


def test_the_help_is_whole_on_a_small_terminal_and_scrolls() -> None:
    drawn = [text("overview", 80, 24, help=True, control=True, scroll=scroll) for scroll in (0, 99)]
    assert "…" not in "".join(drawn)
    assert "1-21 of" in drawn[0]
    assert "planned load" in drawn[1]


def test_the_document_names_every_key() -> None:
    document = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text(encoding="utf-8")
    other_words = {"↑ ↓ PgUp PgDn": "arrows, PgUp, PgDn", "? or h": "?"}
    assert [key for key, _ in KEYS if f"| {other_words.get(key, key)}" not in document] == []
    assert [key for key, _ in CONTROL_KEYS if f"`{key}`" not in document] == []


def test_the_help_names_every_key() -> None:
    page = text("overview", help=True, control=True)
    for key in ("1 to 5", "PgUp", "/", "p ", "s ", "r ", "q ", "c ", "n ", "x "):
        assert key in page


def test_deployment_view_is_made_for_each_replay(tmp_path: Path) -> None:
    path = a_recording(tmp_path)
    assert Replay(path, 1.0).view is not Replay(path, 1.0).view
    assert isinstance(Replay(path, 1.0).view, DeploymentView)
