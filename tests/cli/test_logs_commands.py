"""`clover logs`, `query` and `report` on runs of real processes, some of which are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from archived import archived_rows, simulated_run
from processes import child_of, clover, descendants, generating, result_of, up, within


def server_of(pid: int) -> int | None:
    """Return the embedded server's process below another."""
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if b"valkey-server" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    return None


@pytest.mark.slow
def test_sums_over_exported_rows_are_the_counters_and_the_ledger_whatever_was_killed(tmp_path: Path) -> None:
    """The archive itself, carbon monitor, controller, server and a node die by kill -9 and are started again."""
    run, rate = tmp_path / "runs" / "killed", 20.0
    own = ("--run-name", "killed", "--gpus", "2", "--rate", str(rate), "--scheme", "co2opt")
    with up(tmp_path, *own, duration="25s") as process:
        within(40, lambda: generating(tmp_path))
        within(20, lambda: archived_rows(run))
        for words in (("archive",), ("carbon",), ("controller",), ("node", "n2")):
            os.kill(within(5, lambda words=words: child_of(process.pid, *words)), signal.SIGKILL)
        seen = archived_rows(run)
        within(30, lambda: archived_rows(run) > seen)
        os.kill(within(5, lambda: server_of(process.pid)), signal.SIGKILL)
        seen = archived_rows(run)
        within(30, lambda: archived_rows(run) > seen)
        result = result_of(process)
    told = clover(tmp_path, "logs", "export", "killed", str(tmp_path / "out"), "--format", "jsonl", "--json")
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["state"] == "closed"
    assert document["caught_up"]
    assert document["gaps"] == []
    rows = [json.loads(line) for line in (tmp_path / "out" / "requests.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == result["requests"]["sent"]
    for outcome in ("ok", "late", "expired", "overloaded", "failed", "lost"):
        assert sum(row["outcome"] == outcome for row in rows) == result["requests"][outcome]
    checks = {check["name"]: check for check in document["checks"]}
    # What a killed node had answered since its last telemetry, a second or less before, is in no counter.
    answered = checks.pop("requests.answered")
    assert 0 <= answered["rows"] - answered["counted"] <= 3.0 * rate
    assert [check for check in checks.values() if check["agree"] is not True] == []
    names = {name.partition("[")[0] for name in checks}
    assert {"requests.sent", "ledger.energy_j", "ledger.answered", "summary.sent", "summary.ok"} <= names
    counted = clover(tmp_path, "query", "select count(*) from requests", "--json")
    assert json.loads(counted.stdout)["rows"] == [[len(rows)]]
    report = clover(tmp_path, "report", "--no-png")
    assert report.returncode == 0, report.stderr
    assert Path(report.stdout.strip()) == run / "report" / "report.html"


@pytest.mark.slow
def test_up_without_an_archive_has_none(tmp_path: Path) -> None:
    with up(
        tmp_path, "--run-name", "plain", "--gpus", "1", "--scheme", "base", "--no-archive", duration="3s"
    ) as process:
        result_of(process)
    assert not (tmp_path / "runs" / "plain" / "archive").exists()
    for words in (("query", "select 1"), ("report",), ("logs", "export", "plain", str(tmp_path / "out"))):
        told = clover(tmp_path, *words)
        assert told.returncode == 3
        assert "no archive of tables" in told.stderr
        assert "Traceback" not in told.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulated_run(folder)
    return folder


def test_query_prints_a_table_csv_or_json(tmp_path: Path, simulated: Path) -> None:
    question = "select 'a|b' as name, 1.5 as value, null as nothing, [1, 2] as list"
    asked = ("query", question, "--run", str(simulated))
    table, as_csv, as_json = (clover(tmp_path, *asked, *how) for how in ((), ("--csv",), ("--json",)))
    assert "a|b" in table.stdout
    assert as_csv.stdout.splitlines()[0] == "name,value,nothing,list"
    assert json.loads(as_json.stdout) == {
        "schema": 1,
        "columns": ["name", "value", "nothing", "list"],
        "rows": [["a|b", 1.5, None, [1, 2]]],
    }
    wrong = clover(tmp_path, "query", "select nonsense from requests", "--run", str(simulated))
    assert wrong.returncode == 3
    assert "nonsense" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("query", "select 1", "--csv", "--json"), "--csv and --json"),
        (("query", "select 1", "--run", "nobody"), "nobody"),
        (("report", "nobody"), "nobody"),
        (("logs", "tail", "--table", "slices"), "table 'slices' is unknown"),
        (("logs", "tail", "--where", "colour=red"), "--where 'colour=red'"),
        (("logs", "archive", "x", "--after", "log"), "--after 'log'"),
        (("logs", "export", "RUN", "out", "--format", "xls"), "--format = 'xls'"),
        (("logs", "export", "RUN", "out", "--since", "yesterday"), "--since = 'yesterday'"),
        (("logs", "export", "RUN", "out", "--follow"), "cannot grow"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    tmp_path: Path, simulated: Path, arguments: tuple[str, ...], told: str
) -> None:
    here = [str(simulated) if word == "RUN" else str(tmp_path / word) if word == "out" else word for word in arguments]
    answer = clover(tmp_path, *here)
    assert answer.returncode == 3, answer.stderr
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()
