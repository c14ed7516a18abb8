"""The picture of the dashboard at all sizes, the line that replaces it, and what the driver leaves on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from view_messages import (
    a_log,
    a_node,
    a_plan,
    a_record,
    a_running_view,
    an_event,
    an_intensity,
    at,
    feed,
)

from cli.dashboard import ViewOptions, status_line
from cli.dashboard import view as draw
from cli.dashboard_figures import judge
from cli.dashboard_text import Frame, age, fit, grams, sparkline, wrapped
from clover.analysis.view import DeploymentView, Snapshot
from clover.analysis.view_state import Service
from clover.core.outcome import ProducerOutcome

SIZES = [(80, 24), (120, 40), (200, 60)]
NOW = at(60.5)


def render(snapshot: Snapshot, width: int, height: int, **options: Any) -> Frame:
    return draw(snapshot, width, height, ViewOptions(**options))


def drawn(snapshot: Snapshot, width: int, height: int, *, no_color: bool = True, **options: Any) -> list[str]:
    """Draw as a terminal of this size would show it; styles come out as escape sequences."""
    console = Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, no_color=no_color, record=True
    )
    console.print(render(snapshot, width, height, deployment="demo", **options))
    return console.export_text().splitlines()


def snapshots() -> list[Snapshot]:
    hostile = DeploymentView()
    hostile.set_plan(a_plan(reason="\x1b[2J\nnew line " + "漢字" * 100, scheme="s" * 300))
    feed(
        hostile, an_event(0.0, "k" * 200, "r\r\n\x1b]0;title\x07" * 50, subject="x" * 200), an_intensity(zone="z" * 300)
    )
    return [
        DeploymentView().snapshot(NOW),
        a_running_view().snapshot(NOW),
        a_running_view(gpus=3).snapshot(at(500.0)),
        a_running_view(gpus=200, seconds=3).snapshot(NOW),
        hostile.snapshot(NOW),
    ]


@pytest.mark.parametrize(("width", "height"), [*SIZES, (20, 5), (1, 1), (40, 10), (300, 100)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_picture_fits(width: int, height: int, *, ascii_only: bool) -> None:
    for snapshot in snapshots():
        frame = render(snapshot, width, height, deployment="demo", ascii_only=ascii_only)
        assert len(frame.lines) <= height
        assert all(line.cell_len <= width for line in frame.lines)
        lines = drawn(snapshot, width, height, ascii_only=ascii_only)
        assert len(lines) <= height
        assert not any(c in line for line in lines for c in "\x1b\r\x07")
        if ascii_only:
            assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_key_figures_are_there(width: int, height: int) -> None:
    text = "\n".join(drawn(a_running_view().snapshot(NOW), width, height))

    figures = """
        clover demo | SIM | epoch 7 | saved 2.50 g 41.7 % | 360 gCO2e/kWh | 5.83 mg a request | BASE 8.33 mg (-30 %)
        right-sized 6.67 mg | of 200 ms | OK ● | headroom 47 % | 85.20 % of 89.10 % | 10.0/s (plan 10.0) | lost 0
        10 GPUs | xxlarge 7g | starting | changing | decision 3 on intensity | intensity x PUE went from 187 | q quit
    """
    for line in figures.strip().splitlines():
        for figure in line.split("|"):
            assert figure.strip() in text, figure


def test_all_states_of_gpus_are_said_in_words() -> None:
    text = "\n".join(drawn(a_running_view(gpus=18).snapshot(NOW), 120, 40))

    for word in (
        "parked 60 s",
        "off 60 s",
        "FAILED 60 s: worker",
        "empty 60 s",
        "changing 60 s",
        "draining",
        "!xxlarge",
    ):
        assert word in text, word


def test_cells_are_in_proportion_to_memory_slices() -> None:
    row = next(line for line in drawn(a_running_view().snapshot(NOW), 120, 40) if line.startswith("n1/2 "))

    # 4g takes four memory slices, 2g two, 1g one, and one is free: bars stand at those slices.
    bars = [index for index, c in enumerate(row) if c == "│"]
    cell = (bars[-1] - bars[0]) // 8
    assert [(bar - bars[0]) // cell for bar in bars] == [0, 4, 6, 7, 8]


def test_many_gpus_are_drawn_together_with_the_failed_first() -> None:
    lines = drawn(a_running_view(gpus=200, seconds=3).snapshot(NOW), 80, 24)

    rows = lines[9:]
    assert "failed" in rows[0]
    assert any(" x │" in line for line in rows) or any("other states" in line for line in rows)


def test_gpus_stand_beside_each_other_where_there_is_width() -> None:
    lines = drawn(a_running_view(gpus=40, seconds=3).snapshot(at(3.5)), 200, 40)

    rows = [line for line in lines if line.lstrip().startswith("n1/")]
    assert len(rows) == 20
    assert all(" n2/" in row for row in rows)


def test_an_empty_deployment_says_what_is_missing() -> None:
    text = "\n".join(drawn(DeploymentView().snapshot(NOW), 80, 24))

    for words in ("no data yet", "waiting for a plan", "intensity not known yet", "no GPUs yet", "no decision yet"):
        assert words in text, words


def test_old_data_is_called_stale() -> None:
    text = "\n".join(drawn(a_running_view().snapshot(at(92.0)), 120, 40))

    assert "stale 12 s" in text
    assert "no data for 32 s" in text
    assert "node silent for 32 s" in text


@pytest.mark.parametrize(
    ("service", "word"),
    [
        (Service(), "-"),
        (Service(finished=9, sla_p95_ms=100.0, p95_ms=50.0, headroom_pct=50.0), "OK"),
        (Service(finished=9, sla_p95_ms=100.0, p95_ms=98.0, headroom_pct=2.0), "WARN"),
        (Service(finished=9, sla_p95_ms=100.0, p95_ms=120.0, headroom_pct=-20.0), "SLA"),
        (Service(finished=9, sla_p95_ms=100.0, p95_unbounded=True), "SLA"),
    ],
)
def test_judgement(service: Service, word: str) -> None:
    assert judge(service) == word


def test_a_broken_promise_is_said_without_colour() -> None:
    view = a_running_view()
    feed(view, a_log(*[a_record(60.2, 900.0, ProducerOutcome.LATE)] * 200), seconds=60.2)

    snapshot = view.snapshot(NOW)

    assert "SLA ✖" in "\n".join(drawn(snapshot, 80, 24, colour=False))
    assert "SLA x" in "\n".join(drawn(snapshot, 80, 24, ascii_only=True))
    assert " SLA " in status_line(snapshot)


def test_energy_that_nobody_measured_is_marked() -> None:
    view = DeploymentView()
    feed(view, a_node("n1", energy_source="estimate:tdp"))
    assert " ESTIMATE " in drawn(view.snapshot(at(0.0)), 80, 24)[0]

    view = DeploymentView()
    feed(view, a_node("n1", energy_source="nvml"))
    assert "SIM" not in drawn(view.snapshot(at(0.0)), 80, 24)[0]


def test_no_colour_means_no_colour_codes() -> None:
    snapshot = a_running_view().snapshot(NOW)

    def codes(*, no_color: bool, colour: bool) -> str:
        file = io.StringIO()
        Console(width=80, height=24, file=file, force_terminal=True, color_system="truecolor", no_color=no_color).print(
            render(snapshot, 80, 24, colour=colour)
        )
        return file.getvalue()

    assert "48;2;" in codes(no_color=False, colour=True)
    assert "48;2;" not in codes(no_color=True, colour=True)
    assert "\x1b[" not in codes(no_color=False, colour=False)


def test_a_variant_keeps_its_colour_whatever_else_serves() -> None:
    def style_of_xxlarge(gpus: int) -> set[str]:
        snapshot = a_running_view(gpus=gpus, seconds=3).snapshot(at(3.5))
        frame = render(snapshot, 120, 40, variants=("base", "large", "xlarge", "xxlarge"))
        return {
            str(span.style)
            for line in frame.lines
            for span in line.spans
            if "xxlarge 7g" in line.plain[span.start : span.end] and "on " in str(span.style)
        }

    assert style_of_xxlarge(2) == style_of_xxlarge(10) == {"#000000 on #cc79a7"}


def test_equal_snapshots_are_equal_pictures() -> None:
    snapshot = a_running_view().snapshot(NOW)

    assert render(snapshot, 80, 24) == render(snapshot, 80, 24)
    assert render(snapshot, 80, 24) != render(a_running_view().snapshot(NOW + 2000.0), 80, 24)


def test_status_line_is_one_line_with_the_figures() -> None:
    line = status_line(a_running_view().snapshot(NOW))

    assert "\n" not in line
    for figure in ("SIM", "360 g/kWh", "5.83 mg a request", "BASE 8.33 mg", "saved 41.7 %", "of 200 ms OK", "85.20 %",
                   "load 10.0/s", "epoch 7 serving", "ok 600"):  # fmt: skip
        assert figure in line, figure
    empty = status_line(DeploymentView().snapshot(NOW))
    assert "no data yet" in empty
    assert "no requests yet" in empty


def test_pieces_of_text() -> None:
    assert [age(s) for s in (3.4, 120.0, 9000.0, 300_000.0)] == ["3 s", "2 min", "2.5 h", "3 d"]
    assert [grams(g) for g in (None, 0.0, 0.00123, 0.5, 12.34, 2345.0)] == ["-", "0.00 g", "1.23 mg", "0.50 g", "12.3 g", "2.35 kg"]  # fmt: skip  # noqa: E501
    assert sparkline([1.0, 2.0, None, 3.0], 3) == "▁ █"
    assert sparkline([], 5) == sparkline([None], 5) == ""
    assert fit(["abc", "defghi", "jk"], 9).plain == "abc   jk"
    assert [line.plain for line in wrapped(fit(["one two three four"], 50), 8, 2)] == ["one two", "three f…"]
