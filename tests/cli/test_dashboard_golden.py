"""Whole pictures, kept in `golden/`: written anew with CLOVER_WRITE_GOLDEN=1, and then looked at."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from view_messages import a_running_view, an_override, at

from cli.dashboard import ViewOptions, view
from cli.dashboard_options import PAGES
from cli.dashboard_picture import svg_of
from clover.bus.messages import GpuTarget, Pin

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = ("base", "large", "xlarge", "xxlarge")


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def compare(name: str, drawn: str) -> None:
    path = GOLDEN / name
    if os.environ.get("CLOVER_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(drawn, encoding="utf-8")
    assert drawn == path.read_text(encoding="utf-8"), f"{name} has changed: look at it, then CLOVER_WRITE_GOLDEN=1"


def options(page: str, *, ascii_only: bool = False, colour: bool = True) -> ViewOptions:
    help_ = page == "help"
    return ViewOptions(
        deployment="demo", variants=VARIANTS, page="overview" if help_ else page, help=help_, ascii_only=ascii_only,
        colour=colour,
    )  # fmt: skip


def text_of(page: str, width: int, height: int, *, ascii_only: bool = False) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, color_system=None)
    console.print(view(a_running_view().snapshot(at(60.5)), width, height, options(page, ascii_only=ascii_only)))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


@pytest.mark.parametrize("page", [*PAGES, "help"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_text_of_every_page(page: str, width: int, height: int) -> None:
    compare(f"{page}-{width}x{height}.txt", text_of(page, width, height))


@pytest.mark.parametrize("page", PAGES)
def test_text_in_ascii(page: str) -> None:
    drawn = text_of(page, 80, 24, ascii_only=True)
    assert drawn.isascii()
    compare(f"{page}-80x24-ascii.txt", drawn)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_svg_of_the_overview(width: int, height: int) -> None:
    compare(
        f"overview-{width}x{height}.svg",
        svg_of(a_running_view().snapshot(at(60.5)), options("overview"), width, height),
    )


def test_svg_without_colour() -> None:
    drawn = svg_of(a_running_view().snapshot(at(60.5)), options("gpus", colour=False), 80, 24)
    for colour in ("#56b4e9", "#e69f00", "#009e73", "#cc79a7"):
        assert colour not in drawn
    compare("gpus-80x24-no-colour.svg", drawn)


@pytest.mark.parametrize("page", ["overview", "decisions"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_text_where_people_overrule_the_controller(page: str, width: int, height: int) -> None:
    kept = a_running_view()
    pins = tuple(Pin(node="n1", gpu=GpuTarget(index=index, mode="parked"), until_ms=at(3660.0)) for index in range(4))
    kept.set_override(an_override(paused=True, pins=pins, nodes=("n2",)))
    console = Console(width=width, height=height, file=io.StringIO(), record=True, color_system=None)
    console.print(view(kept.snapshot(at(60.5)), width, height, options(page)))
    drawn = "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
    assert "CONTROLLER PAUSED" in drawn.splitlines()[0]
    assert "4 PINNED" in drawn.splitlines()[0]
    assert "1 BY HAND" in drawn.splitlines()[0]
    compare(f"{page}-{width}x{height}-overruled.txt", drawn)
