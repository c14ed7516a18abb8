"""Reading archived runs: frames, SQL, exports; and what they say about runs that are broken."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from archived import a_log, full_disk, memory_bus, opened, simulated_run
from support import run

from clover.analysis.load import load
from clover.analysis.logs.archiver import Archiver
from clover.analysis.logs.export import FORMATS, Format, export
from clover.analysis.logs.follow import Follower
from clover.analysis.logs.reconcile import reconcile
from clover.analysis.logs.tables import TABLES
from clover.bus.values import Feed
from clover.errors import ConfigurationError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "analysis.md"
QUESTIONS = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulated_run(folder)
    return folder


def test_there_are_ten_questions_and_every_table_is_described() -> None:
    assert len(QUESTIONS) == 10
    assert [name for name in TABLES if f"| `{name}` |" not in DOCUMENT.read_text()] == []


@pytest.mark.parametrize("number", range(10))
def test_each_question_of_the_document_has_an_answer(simulated: Path, number: int) -> None:
    with load(simulated) as archived:
        names, rows = archived.sql(QUESTIONS[number])
    assert names
    assert rows
    assert any(value is not None for row in rows for value in row)


def test_the_answers_agree_with_the_summary(simulated: Path) -> None:
    summary = json.loads((simulated / "summary.json").read_text())
    with load(simulated) as archived:
        ended = dict(row[:2] for row in archived.sql(QUESTIONS[0])[1])
        metered, ledger = archived.sql(QUESTIONS[9])[1][0]
    assert sum(ended.values()) == summary["requests"]["sent"]
    assert ended["ok"] == summary["requests"]["ok"]
    assert metered == pytest.approx(ledger)


def test_everything_of_a_simulated_run_reconciles(simulated: Path) -> None:
    with load(simulated) as archived:
        checks = reconcile(archived)
    assert len(checks) >= 12
    assert [check for check in checks if check.agree is not True] == []


def test_a_row_that_is_missing_does_not_reconcile(simulated: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(simulated, tmp_path / "broken")
    path = next((broken / "archive" / "requests").glob("*.parquet"))
    pl.read_parquet(path).slice(1).write_parquet(path)
    with load(broken) as archived:
        differing = {check.name for check in reconcile(archived) if check.agree is False}
    assert {"requests.sent[generator]", "summary.sent", "requests.answered"} <= differing


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_holds_the_same_rows_in_every_format(simulated: Path, tmp_path: Path, form: Format) -> None:
    with load(simulated) as archived:
        told = export(archived, tmp_path / "out", form=form)
        rows = {table: archived.frame(table).height for table in TABLES}
    assert {table: made["rows"] for table, made in told["tables"].items()} == rows
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == told
    assert told["gaps"] == []
    assert told["streams"]["log"]["last_id"] == told["tables"]["requests"]["last_stream_id"]
    assert sum(told["requests_by_outcome"].values()) == rows["requests"]
    requests = tmp_path / "out" / f"requests.{form}"
    if form == "csv":
        with requests.open() as lines:
            assert len(list(csv.DictReader(lines))) == rows["requests"]
        with (tmp_path / "out" / "decisions.csv").open() as lines:
            assert isinstance(json.loads(next(csv.DictReader(lines))["alternatives"]), list)
    elif form == "jsonl":
        assert sum(1 for line in requests.read_text().splitlines() if json.loads(line)["id"]) == rows["requests"]
    else:
        assert pl.read_parquet(requests).height == rows["requests"]


def test_an_export_can_be_cut_in_time(simulated: Path, tmp_path: Path) -> None:
    with load(simulated) as archived:
        due = archived.frame("requests")["due_ms"].sort()
        middle = due[due.len() // 2]
        first = export(archived, tmp_path / "a", form="parquet", tables=["requests"], until_ms=middle)
        second = export(archived, tmp_path / "b", form="parquet", tables=["requests"], since_ms=middle)
    assert first["tables"]["requests"]["rows"] == due.len() // 2
    assert first["tables"]["requests"]["rows"] + second["tables"]["requests"]["rows"] == due.len()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_export_follows_an_open_run_through_its_becoming_parquet(tmp_path: Path, form: Format) -> None:
    async def test() -> None:
        bus = memory_bus()
        with opened(tmp_path / "archive") as files:
            archiver = Archiver(bus, files, lambda: 0.0)
            follower = Follower(load(tmp_path / "archive"), tmp_path / "out", form=form, tables=["requests"])
            assert follower.step() == (0, False)
            await bus.publish(Feed.LOG, [a_log("r1", "r2")])
            await archiver.read(block_s=0.0)
            assert follower.step() == (2, False)
            await bus.publish(Feed.LOG, [a_log("r3")])
            await archiver.read(block_s=0.0)
            files.close_segment("requests")
            await archiver._convert()
            await bus.publish(Feed.LOG, [a_log("r4")])
            await archiver.read(block_s=0.0)
            assert follower.step() == (2, False)
            await archiver._close(caught_up=True)
        assert follower.step() == (0, True)

    run(test())
    text = (tmp_path / "out" / f"requests.{form}").read_text()
    if form == "csv":
        assert [row["id"] for row in csv.DictReader(text.splitlines())] == ["r1", "r2", "r3", "r4"]
    else:
        assert [json.loads(line)["id"] for line in text.splitlines()] == ["r1", "r2", "r3", "r4"]


# --- bad input


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        load(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="no archive of tables"):
        load(tmp_path)


def test_an_empty_run_has_empty_tables(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with load(tmp_path) as archived:
        assert archived.sql("select count(*), max(latency_ms) from requests")[1] == [(0, None)]
        assert archived.frame("decisions").columns == [column.name for column in TABLES["decisions"].columns]
        assert export(archived, tmp_path / "out", form="csv")["tables"]["requests"]["rows"] == 0


def test_a_missing_file_an_unknown_table_and_a_wrong_query_are_told(simulated: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(simulated, tmp_path / "broken")
    next((broken / "archive" / "power").glob("*.parquet")).unlink()
    with load(broken) as archived:
        with pytest.raises(ConfigurationError, match=r"power.*is missing"):
            archived.frame("power")
        with pytest.raises(ConfigurationError, match=r"power.*is missing"):
            archived.sql("select 1")
        with pytest.raises(ConfigurationError, match="'slices' is unknown"):
            archived.frame("slices")
    with load(simulated) as archived:
        with pytest.raises(ConfigurationError, match="nothing_such") as caught:
            archived.sql("select * from nothing_such")
        assert "requests" in caught.value.hint


def test_a_damaged_file_is_told(simulated: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(simulated, tmp_path / "broken")
    next((broken / "archive" / "ledger").glob("*.parquet")).write_bytes(b"PAR1 and no more")
    with load(broken) as archived, pytest.raises(ConfigurationError, match="table ledger"):
        archived.frame("ledger")


def test_an_export_overwrites_nothing(simulated: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "requests.parquet").write_text("mine")
    with load(simulated) as archived:
        with pytest.raises(ConfigurationError, match="nothing was written"):
            export(archived, mine, form="parquet")
        with pytest.raises(ConfigurationError, match="nothing was written"):
            Follower(archived, mine, form="csv", tables=["requests"])
        with pytest.raises(ConfigurationError, match="cannot grow"):
            Follower(archived, tmp_path / "new", form="parquet", tables=["requests"])
    assert [path.name for path in mine.iterdir()] == ["requests.parquet"]
    assert (mine / "requests.parquet").read_text() == "mine"


def test_an_export_that_does_not_fit_leaves_nothing(simulated: Path, tmp_path: Path) -> None:
    with load(simulated) as archived:
        archived.frame("requests")
        with full_disk(1000), pytest.raises(ConfigurationError, match="nothing was written"):
            export(archived, tmp_path / "out", form="csv", tables=["requests"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_into_what_cannot_be_written_is_told(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with load(simulated) as archived, pytest.raises(ConfigurationError, match="nothing was written"):
        export(archived, tmp_path / "file" / "out", form="csv")
