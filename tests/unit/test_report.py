"""Reports: their figures are the run's, nothing in them is empty, and they need nothing but themselves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from archived import a_log, full_disk, memory_bus, opened, simulated_run
from matplotlib.image import imread
from support import run

from cli.dashboard_map import variant_style
from clover.analysis.load import load
from clover.analysis.logs.archiver import Archiver
from clover.analysis.palette import LOOKS, look_of, order_of
from clover.analysis.report.experiment import experiment_report, is_experiment
from clover.analysis.report.fleet import series_of
from clover.analysis.report.make import report
from clover.analysis.report.other_pictures import frontier_of
from clover.analysis.report.writing import write
from clover.bus.values import Feed
from clover.errors import ConfigurationError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES = {"intensity", "cumulative", "accuracy", "latency", "mix", "frontier", "percentiles", "decisions", "energy"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made: dict[str, Path] = {}
    for scheme in ("co2opt", "base"):
        made[scheme] = tmp_path_factory.mktemp(scheme)
        simulated_run(made[scheme], scheme)
    return made


@pytest.fixture(scope="module")
def written(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(report(runs["co2opt"], baseline=runs["base"]), tmp_path_factory.mktemp("out") / "report").parent


def test_the_figures_are_those_of_the_summary(runs: dict[str, Path], written: Path) -> None:
    summary = json.loads((runs["co2opt"] / "summary.json").read_text())
    data = json.loads((written / "report.json").read_text())
    figures = data["figures"]
    assert figures["requests"] == summary["requests"]
    assert figures["accuracy_pct"] == pytest.approx(summary["accuracy_pct"])
    # The summary keeps few readings of the ledger; between two of them it takes a straight line.
    assert figures["energy_j"] == pytest.approx(summary["energy_j"], rel=1e-3)
    assert figures["footprint_g"] == pytest.approx(summary["footprint_g"], rel=5e-3)
    assert figures["p95_ms"] == pytest.approx(summary["p95_ms"], rel=0.002)
    # Modelled over bins here, over seconds there.
    assert figures["saved_pct"] == pytest.approx(summary["saved_pct"], abs=0.2)
    assert figures["saved_pct_rightsized"] == pytest.approx(summary["saved_pct_rightsized"], abs=0.2)
    assert sum(figures["by_cause_j"].values()) == pytest.approx(figures["energy_j"])
    sci = figures["sci"]
    assert sci["operational_g_per_request"] * sci["requests"] == pytest.approx(figures["footprint_g"])
    assert all(check["agree"] for check in data["checks"])


def test_the_measured_baseline_agrees_with_the_modelled_one(written: Path) -> None:
    data = json.loads((written / "report.json").read_text())
    assert data["baseline"]["run"] != data["figures"]["run"]
    assert data["baseline_saved_pct"] == pytest.approx(data["figures"]["saved_pct"], abs=4.0)


def test_the_series_sum_to_the_figures(runs: dict[str, Path]) -> None:
    with load(runs["co2opt"]) as archived:
        series = series_of(archived)
        requests = archived.frame("requests")
    assert series.requests.count.sum() == requests.height
    assert sum(v.sum() for v in series.requests.variants.values()) == series.requests.answered.sum()
    assert series.fleet is not None
    # 2 GPUs of 7 slices, whatever they are.
    assert {float(total) for total in sum(series.fleet.slices.values())} == {14.0}
    assert series.notes == []


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    page = Page()
    page.feed((written / "report.html").read_text())
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "link", "iframe", "img", "object", "embed"})
    for tag, attributes in page.tags:
        for name in ("href", "src", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert {a["id"] for tag, a in page.tags if tag == "figure"} == PICTURES
    assert "url(http" not in (written / "report.html").read_text()


def test_every_picture_is_there_in_both_forms_and_shows_something(written: Path) -> None:
    figures = written / "figures"
    assert {path.stem for path in figures.glob("*.svg")} == PICTURES
    assert {path.stem for path in figures.glob("*.png")} == PICTURES
    for path in figures.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in figures.glob("*.svg"):
        # Something beyond axes and texts: lines, areas, marks or an image.
        assert re.search(r'id="(line2d|FillBetween|PolyCollection|PathCollection|patch|image)[^"]*"', path.read_text())


def test_the_same_run_gives_the_same_pictures(runs: dict[str, Path], written: Path) -> None:
    again = report(runs["co2opt"], baseline=runs["base"], png=False)
    assert {p.name: p.svg for p in again.pictures} == {
        p.stem: p.read_text() for p in (written / "figures").glob("*.svg")
    }


def test_markdown_links_every_picture(written: Path) -> None:
    text = (written / "report.md").read_text()
    for name in PICTURES:
        assert f"(figures/{name}.svg)" in text
    assert "right-sized BASE" in text
    assert "SIMULATED" in text


def test_a_variant_has_one_look_everywhere() -> None:
    order = order_of(("base", "large"), ["huge", "large"])
    assert order == ("base", "large", "huge")
    for variant in (*order, "never seen"):
        look = look_of(order, variant)
        assert variant_style(order, variant) == f"{look.ink} on {look.colour}"
    # In grey print each neighbour has another hatch.
    assert len({look.hatch for look in LOOKS}) == len(LOOKS)


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    assert frontier_of([(1.0, 10.0), (0.0, 0.0), (2.0, 5.0), (1.0, 12.0), (3.0, 20.0)]) == [
        (0.0, 0.0),
        (1.0, 12.0),
        (3.0, 20.0),
    ]


# --- what is broken, or not a run


def test_an_empty_run_is_told(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(ConfigurationError, match="no request has ended"):
        report(tmp_path)


def test_an_open_run_with_requests_alone_is_reported_as_far_as_it_goes(tmp_path: Path) -> None:
    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log(*(f"r{n}" for n in range(30)))])
        with opened(tmp_path) as files:
            await Archiver(bus, files, lambda: 0.0).read(block_s=0.0)

    run(test())
    page = report(tmp_path, png=False)
    assert any("still open" in note for note in page.notes)
    assert any("No carbon is shown" in note for note in page.notes)
    assert {picture.name for picture in page.pictures} == {"accuracy", "latency", "mix", "percentiles", "energy"}
    assert write(page, tmp_path / "report").is_file()


def test_gaps_and_rows_that_do_not_agree_are_told_first(runs: dict[str, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(runs["base"], tmp_path / "broken")
    path = broken / "archive" / "manifest.json"
    manifest = json.loads(path.read_text())
    gap = {
        "feed": "log",
        "after_id": "1-0",
        "before_id": "2-0",
        "entries": 7,
        "reason": "trimmed",
        "noticed_at_ms": 1.0,
    }
    path.write_text(json.dumps(manifest | {"gaps": [gap]}))
    page = report(broken, png=False)
    assert any("1 gaps in the streams" in note for note in page.notes)
    assert any("archive.gaps" in note for note in page.notes)
    streams = next(table for table in page.tables if table.title == "Streams")
    assert any("7 after 1-0: trimmed" in row[4] for row in streams.rows)


def test_a_report_replaces_only_a_report(runs: dict[str, Path], tmp_path: Path) -> None:
    page = report(runs["base"], png=False)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is no report"):
        write(page, mine)
    assert (mine / "notes.txt").read_text() == "mine"
    first = write(page, tmp_path / "report")
    (tmp_path / "report" / "extra").write_text("of the first")
    assert write(page, tmp_path / "report") == first
    assert not (tmp_path / "report" / "extra").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "report"]


def test_a_report_that_does_not_fit_leaves_the_old_one(runs: dict[str, Path], tmp_path: Path) -> None:
    page = report(runs["base"], png=False)
    write(page, tmp_path / "report")
    with full_disk(5000), pytest.raises(ConfigurationError, match="nothing was written"):
        write(page, tmp_path / "report")
    assert (tmp_path / "report" / "report.html").stat().st_size > 5000
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="nothing was written"):
        write(page, tmp_path / "file" / "report")


# --- experiments


def row(scheme: str, saved: float, *, feasible: bool = True) -> dict[str, Any]:
    return {
        "scheme": scheme, "app": "albert", "trace": "ciso-march", "rate_rps": 2.5, "gpus": 2, "lambda": 0.5,
        "parking": "none", "footprint_g": 1.0, "energy_j_per_request": 20.0, "saved_pct": saved,
        "saved_pct_rightsized": saved - 3.0, "baseline_feasible": True, "accuracy_loss_pct": saved / 10.0,
        "p95_ms": 120.0 if feasible else None, "late_pct": 1.0 if feasible else 9.0, "feasible": feasible,
        "objective": saved, "mig_changes": 4,
    }  # fmt: skip


def test_an_experiment_has_a_report_of_its_own(tmp_path: Path) -> None:
    summary = {"schema": 1, "rows": [row("base", 0.0), row("exact", 50.0), row("hasty", 60.0, feasible=False)]}
    assert is_experiment(summary)
    assert not is_experiment({"requests": {}})
    page = experiment_report(tmp_path, summary)
    assert {picture.name for picture in page.pictures} == {"frontier", "schemes"}
    assert [line[0] for line in page.tables[0].rows] == ["exact", "base", "hasty (infeasible)"]
    html = write(page, tmp_path / "report").read_text()
    assert "nothing was served" in html
    with pytest.raises(ConfigurationError, match="no rows"):
        experiment_report(tmp_path, {"rows": []})
    with pytest.raises(ConfigurationError, match="lack"):
        experiment_report(tmp_path, {"rows": [{"scheme": "base"}]})


@pytest.mark.slow
def test_a_browser_shows_the_page(written: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    shot = tmp_path / "shot.png"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,6000",
               f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
               (written / "report.html").as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=90)
    pixels = imread(shot)
    dark = (pixels[..., :3].mean(axis=2) < 0.9).mean(axis=1)
    # Ink from top to bottom of the page: no long stretch of it is empty.
    inked = [place for place, share in enumerate(dark) if share > 0.002]
    assert len(inked) > 2000
    assert max(b - a for a, b in pairwise(inked)) < 400
