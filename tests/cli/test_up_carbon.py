"""`clover up` with real processes on a live source that fails in the middle, and the `clover carbon` commands."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import carbon_stub
import pytest
from carbon_stub import Reply, Stub
from processes import all_answered, child_of, clover, result_of, up, within
from typer.testing import CliRunner

from cli.main import app

pytestmark = pytest.mark.usefixtures("plain")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CLOVER_")]:
        monkeypatch.delenv(name)


#: Half-hours are so many seconds long here.
SLOT_S = 2.0


def truth(at_s: float) -> float:
    return 150.0 + (at_s // SLOT_S) % 10.0


class Failing:
    """The stub of NESO, with a switch."""

    def __init__(self) -> None:
        self.down = threading.Event()
        self.right = carbon_stub.neso(time.time, truth, slot_s=SLOT_S)

    def __call__(self, ask: Any) -> Reply:
        return Reply({"error": {"message": "maintenance"}}, status=503) if self.down.is_set() else self.right(ask)


@contextmanager
def failing() -> Iterator[tuple[Failing, str]]:
    play = Failing()
    with Stub(play).served() as address:
        yield play, address


def _status(folder: Path) -> dict[str, Any]:
    answer = clover(folder, "status", "--json")
    return json.loads(answer.stdout) if answer.returncode == 0 else {}


def _grid(folder: Path) -> dict[str, Any]:
    return _status(folder).get("intensity") or {}


def _scrape(port: int) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _tells_why(grid: dict[str, Any]) -> bool:
    """Return whether a stale figure says that its source fails."""
    note = grid.get("note", "")
    return bool(grid.get("stale")) and ("503" in note or "left alone" in note)


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_a_live_source_fails_in_the_middle_of_a_run_and_comes_back(tmp_path: Path) -> None:
    port = _free_port()
    live = ("--carbon", "neso", "--carbon-poll", "1s", "--carbon-max-age", "4s", "--carbon-fallback", "constant:777")
    with failing() as (grid, address), up(
        tmp_path, *live, "--carbon-url", address, "--metrics-port", str(port), "--gpus", "2", "--nodes", "1",
        "--scheme", "base", "--rate", "10", duration="300s",
    ) as process:  # fmt: skip
        first = within(40, lambda: g if (g := _grid(tmp_path)).get("fallback_level") == 0 else None)
        assert first["source"] == "neso"
        assert (first["zone"], first["factor"], first["kind"], first["stale"]) == ("GB", "direct", "average", False)
        within(20, lambda: (_status(tmp_path).get("ledger") or {}).get("answered"))
        plan = _status(tmp_path)["plan"]["epoch"]
        grid.down.set()
        down_ms = time.time() * 1e3
        # Beyond the limit the figure is marked, its age is shown and the plan stays.
        within(20, lambda: _grid(tmp_path).get("stale"))
        # The last answer before may have been an old figure; the next one tells what is wrong.
        stale = within(20, lambda: g if _tells_why(g := _grid(tmp_path)) else None)
        assert stale["fallback_level"] > 0
        shown = clover(tmp_path, "status").stdout
        assert "STALE: plans stay as they are" in shown
        assert "SCI" in shown
        assert "stale" in clover(tmp_path, "dashboard", "--once").stdout
        # A minute in all.
        within(70, lambda: time.time() * 1e3 - down_ms >= 60e3)
        assert _grid(tmp_path)["stale"]
        assert _status(tmp_path)["plan"]["epoch"] == plan
        grid.down.clear()
        # The circuit breaker may be open for a minute by now.
        within(150, lambda: _fresh(tmp_path))
        told = within(10, lambda: t if "carbon.recovered" in (t := _told_after(tmp_path, down_ms)) else None)
        assert "carbon.stale" in told
        assert "clover_carbon_intensity_fallback" in _scrape(port)
        process.send_signal(signal.SIGINT)
        result = result_of(process)
    all_answered(result)
    assert result["unresolved_j"] == 0.0
    # Every figure was between 150 and 160 g/kWh (or its forecast): the constant was never needed.
    per_j = result["footprint_g"] / result["energy_j"] * 3.6e6 / 1.5
    assert 150.0 <= per_j <= 160.0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_totals_go_on_over_a_restart_of_the_monitor(tmp_path: Path) -> None:
    port = _free_port()
    live = ("--carbon", "neso", "--carbon-poll", "1s", "--carbon-max-age", "3s")
    with failing() as (grid, address), up(
        tmp_path, *live, "--carbon-url", address, "--metrics-port", str(port), "--gpus", "1", "--nodes", "1",
        "--scheme", "base", duration="300s",
    ) as process:  # fmt: skip
        within(90, lambda: (_status(tmp_path).get("ledger") or {}).get("answered"))
        grid.down.set()
        within(20, lambda: _grid(tmp_path).get("stale"))
        before, parts_before = _scrape(port), _status(tmp_path)["ledger_parts"]
        os.kill(within(5, lambda: child_of(process.pid, "carbon")), signal.SIGKILL)
        grid.down.clear()
        kinds = within(30, lambda: k if "carbon.recovered" in (k := _kinds(tmp_path)) or _fresh(tmp_path) else None)
        assert "carbon.stale" in kinds
        after = within(20, lambda: _scraped(port))
        parts_after = _status(tmp_path)["ledger_parts"]
        assert _scraped(port + 1)
        assert _scrape(port + 2)["clover_controller_acting"] == 1.0
        assert _scrape(port + 2)["clover_plan_epoch"] >= 1.0
        assert _scrape(port + 3)["clover_requests_sent_total"] > 0.0
        process.send_signal(signal.SIGINT)
        result = result_of(process)
    assert result["requests"]["lost"] == 0
    totals = [name for name in before if name.partition("{")[0].endswith("_total")]
    assert len(totals) >= 8
    assert all(after[name] >= before[name] for name in totals)
    for group in ("by_variant", "by_gpu", "by_node", "by_hour"):
        assert parts_before[group]
        for name, part in parts_before[group].items():
            assert all(parts_after[group][name][figure] >= value for figure, value in part.items()), (group, name)
    assert before["clover_carbon_intensity_stale"] == 1.0
    assert before["clover_pue_ratio"] == 1.5
    assert before["clover_carbon_intensity_age_seconds"] > 3.0


def _fresh(folder: Path) -> bool:
    grid = _grid(folder)
    return grid.get("fallback_level") == 0 and not grid.get("stale")


def _told_after(folder: Path, at_ms: float) -> list[str]:
    answer = clover(folder, "events", "--no-follow", "--json")
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    return [event["kind"] for event in events if event["at_ms"] >= at_ms]


def _kinds(folder: Path) -> set[str]:
    answer = clover(folder, "events", "--no-follow", "--json")
    return {json.loads(line)["kind"] for line in answer.stdout.splitlines()}


def _scraped(port: int) -> dict[str, float] | None:
    try:
        found = _scrape(port)
    except OSError:
        return None
    return found if any(name.startswith(("clover_energy", "clover_node_energy")) for name in found) else None


# --- clover carbon ----------------------------------------------------------------------------------------------------


def _carbon(*arguments: str) -> str:
    """Run a command of `clover carbon` in this process; return its standard output."""
    answer = CliRunner().invoke(app, ["carbon", *arguments], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_now_history_forecast_and_doctor_of_a_live_source(tmp_path: Path) -> None:
    play = carbon_stub.neso(time.time, lambda at_s: 100.0 + at_s // 1800.0 % 48.0)
    with Stub(play).served() as address:
        live = ("--carbon", "neso", "--carbon-url", address)
        now = json.loads(_carbon("now", *live, "--json"))
        past = json.loads(_carbon("history", *live, "--hours", "3", "--json"))["figures"]
        ahead = json.loads(_carbon("forecast", *live, "--hours", "6", "--json"))
        shown = _carbon("forecast", *live, "--hours", "2")
        healthy = _carbon("doctor", *live)
    assert (now["zone"], now["source"], now["fallback_level"], now["kind"]) == ("GB", "neso", 0, "average")
    assert len(past) >= 6
    # This grid is the same every day, so persistence is right and its band has no width.
    assert ahead["persistence_error"]["mean_absolute_g_per_kwh"] == 0.0
    both = {one["from"]: one["g_per_kwh"] for one in ahead["published"]}
    assert all(one["g_per_kwh"] == both[one["from"]] for one in ahead["persistence"])
    assert len(ahead["persistence"]) == 12
    assert "80 % band" in shown
    assert ": ok, " in healthy
    sick = clover(tmp_path, "carbon", "doctor", "--carbon", "neso", "--carbon-url", "http://127.0.0.1:9")
    assert (sick.returncode, "refused" in sick.stdout) == (5, True)


def test_commands_on_traces_and_their_errors(tmp_path: Path) -> None:
    rows = json.loads(_carbon("history", "--hours", "5", "--json"))["figures"]
    assert [row["trace_index"] for row in rows] == [0, 1, 2, 3, 4]
    assert "trace:ciso-march" in _carbon("now")
    assert "as yesterday was wrong by" in _carbon("forecast")
    listed = _carbon("doctor")
    assert "CLOVER_EIA_KEY (or CLOVER_EIA_KEY_FILE) is NOT set" in listed
    for arguments, told in (
        (("now", "--carbon", "sun"), "--carbon = 'sun'"),
        (("now", "--carbon", "eia", "--carbon-zone", "CISO"), "needs a key"),
        (("history", "--trace", "mars"), "trace 'mars' is unknown"),
        (("import", str(tmp_path / "none.csv")), "none.csv"),
    ):
        answer = clover(tmp_path, "carbon", *arguments)
        assert (answer.returncode, told in answer.stderr) == (3, True), answer.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--carbon", "watttime", "--carbon-zone", "CAISO_NORTH"), "needs a key"),
        (("--carbon", "neso", "--carbon-zone", "FR"), "expected GB"),
        (("--carbon", "neso", "--carbon-fallback", "mars"), "trace 'mars'"),
        (("--replay", "cubic"), "--replay = 'cubic'"),
    ],
)
def test_up_refuses_what_cannot_work(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    answer = clover(tmp_path, "up", *arguments)
    assert (answer.returncode, told in answer.stderr) == (3, True), answer.stderr


def test_an_imported_file_is_a_trace_that_up_takes(tmp_path: Path) -> None:
    rows = "\n".join(f"2022-01-01T{hour:02d}:00Z,{'' if hour == 2 else 100 + hour},90" for hour in range(6))
    (tmp_path / "grid.csv").write_text(f"datetime,actual carbon intensity,forecast carbon intensity\n{rows}\n")
    out = tmp_path / "trace.csv"
    report = json.loads(
        clover(
            tmp_path, "carbon", "import", str(tmp_path / "grid.csv"), "--zone", "GB", "--out", str(out), "--json"
        ).stdout
    )
    assert (report["blank"], report["interpolated"], report["intervals"]) == (1, 1, 6)
    told = _carbon("history", "--trace", str(out))
    assert "a gap of the trace, interpolated at import" in told
    assert "2022-01-01T02:00:00Z" in told
