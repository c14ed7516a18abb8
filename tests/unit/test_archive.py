"""The archive: what it holds is what was written, whatever kills it in between; what it misses it says."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest
from archived import START_MS, a_log, full_disk, memory_bus, opened, simulated_run
from support import an_event, intensity, ledger, run, telemetry

from cli.logs import print_row
from clover.analysis.load import load
from clover.analysis.logs import archiver
from clover.analysis.logs.archiver import Archiver
from clover.analysis.logs.files import ArchiveWriteError
from clover.analysis.logs.manifest import FILE, read_manifest
from clover.analysis.logs.rows import rows_of
from clover.analysis.logs.tables import NESTED, TABLES
from clover.analysis.summary import RunSummary
from clover.bus.memory import MemoryBus
from clover.bus.messages import LogLine
from clover.bus.values import Feed
from clover.errors import ConfigurationError


def now_ms() -> float:
    return START_MS


def ids_in(folder: Path) -> list[str]:
    with load(folder) as archived:
        return archived.frame("requests")["id"].to_list()


async def read_all(bus: MemoryBus, folder: Path) -> None:
    with opened(folder) as files:
        reader = Archiver(bus, files, now_ms)
        while await reader.read(block_s=0.0):
            pass


def test_every_message_becomes_rows_with_the_columns_of_their_table() -> None:
    line = LogLine(at_ms=1.0, level="warning", source="n1", text="hot")
    seen: set[str] = set()
    for message in (a_log("r1"), an_event(), intensity(), ledger(), telemetry(), line):
        for table, row in rows_of("1-0", message):
            assert tuple(row) == tuple(column.name for column in TABLES[table].columns)
            seen.add(table)
    assert seen == {"requests", "events", "intensity", "ledger", "health", "power"}
    assert all(kind in NESTED or kind for table in TABLES.values() for kind in (c.kind for c in table.columns))


def test_decisions_and_plans_become_rows(tmp_path: Path) -> None:
    simulated_run(tmp_path)
    with load(tmp_path) as archived:
        decisions, plans = archived.frame("decisions"), archived.frame("plans")
        assert decisions["trigger"][0] == "start"
        assert decisions["alternatives"].list.len().max() is not None
        assert set(plans["state"]) == {"step", "serving"}
        assert plans["base_energy_j_per_request"].min() > 0


def test_a_closed_archive_is_parquet_and_holds_every_row_once(tmp_path: Path) -> None:
    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log("r1", "r2"), a_log("r3")])
        with opened(tmp_path) as files:
            stop = asyncio.Event()
            stop.set()
            await Archiver(bus, files, now_ms).run(stop)

    run(test())
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.state, manifest.caught_up, manifest.gaps) == ("closed", True, [])
    assert [s.format for s in manifest.tables["requests"]] == ["parquet"]
    assert sorted(path.name for path in (tmp_path / "requests").iterdir()) == ["000001.parquet"]
    assert ids_in(tmp_path) == ["r1", "r2", "r3"]


def test_an_open_archive_reads_as_far_as_it_counts(tmp_path: Path) -> None:
    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log("r1", "r2")])
        with opened(tmp_path) as files:
            await Archiver(bus, files, now_ms).read(block_s=0.0)
            with (tmp_path / "requests" / "000001.jsonl").open("ab") as lines:
                lines.write(b'{"id": "half of a r')
            assert ids_in(tmp_path) == ["r1", "r2"]
            with load(tmp_path) as archived:
                assert archived.is_open
                assert archived.sql("select count(*) from requests")[1] == [(2,)]

    run(test())


@pytest.mark.parametrize("lost", ["nothing", "manifest", "half a line", "manifest and half a line"])
def test_a_kill_between_any_two_steps_loses_no_row_and_doubles_none(tmp_path: Path, lost: str) -> None:
    """What a kill leaves behind: rows without the manifest that names them, or a part of a row."""

    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log("r1", "r2")])
        await read_all(bus, tmp_path)
        before = (tmp_path / FILE).read_bytes()
        await bus.publish(Feed.LOG, [a_log("r3", "r4")])
        await bus.publish(Feed.EVENTS, [an_event()])
        await read_all(bus, tmp_path)
        if "manifest" in lost:
            (tmp_path / FILE).write_bytes(before)
        if "half" in lost:
            with (tmp_path / "requests" / "000001.jsonl").open("ab") as lines:
                lines.write(b'{"stream_id": "9')
        await bus.publish(Feed.LOG, [a_log("r5")])
        await read_all(bus, tmp_path)

    run(test())
    assert ids_in(tmp_path) == ["r1", "r2", "r3", "r4", "r5"]
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.gaps == []
    assert manifest.rows("events") == 1


def test_a_kill_while_a_file_becomes_parquet_leaves_it_what_it_was(tmp_path: Path) -> None:
    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log("r1")])
        await read_all(bus, tmp_path)
        # Parquet that no manifest names yet.
        (tmp_path / "requests" / "000001.parquet").write_bytes(b"PAR1")
        await bus.publish(Feed.LOG, [a_log("r2")])
        await read_all(bus, tmp_path)

    run(test())
    assert ids_in(tmp_path) == ["r1", "r2"]
    assert not (tmp_path / "requests" / "000001.parquet").exists()


def test_a_batch_that_was_written_twice_counts_once_also_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        bus, folder = memory_bus(), tmp_path / "archive"
        summary = RunSummary(sla_p95_ms=100.0)
        logs = [a_log("a", "b"), a_log("a", "b"), a_log("a", "b", producer="other"), a_log("c"), a_log("c")]
        for log in logs:
            summary.take(log)
        for part in (logs[:1], logs[1:4], logs[4:]):
            with opened(folder) as files:
                archiver = Archiver(bus, files, lambda: START_MS)
                await bus.publish(Feed.LOG, part)
                await archiver.read(block_s=0.0)
        with load(folder) as made:
            assert made.frame("requests")["id"].to_list() == ["a", "b", "a", "b", "c"]
            assert made.manifest.gaps == []
        assert summary.result()["requests"]["ok"] == 5

    run(test())


def test_what_was_trimmed_before_it_was_read_is_a_gap(tmp_path: Path) -> None:
    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.EVENTS, [an_event(0)])
        await read_all(bus, tmp_path)
        events = [an_event(number) for number in range(10_000)]
        for _ in range(11):
            await bus.publish(Feed.EVENTS, events)
        kept = (await bus.extent(Feed.EVENTS)).length
        await read_all(bus, tmp_path)
        manifest = read_manifest(tmp_path)
        assert manifest is not None
        [gap] = manifest.gaps
        assert gap.feed == "evt"
        assert gap.entries == 110_000 - kept > 0
        assert manifest.rows("events") == kept + 1
        # It is told once.
        await bus.publish(Feed.EVENTS, [an_event(1)])
        await read_all(bus, tmp_path)
        again = read_manifest(tmp_path)
        assert again is not None
        assert len(again.gaps) == 1

    run(test())


def test_a_server_that_lost_its_data_is_a_gap_and_its_new_rows_come_in(tmp_path: Path) -> None:
    async def test() -> None:
        old = memory_bus()
        await old.publish(Feed.LOG, [a_log("r1"), a_log("r2")])
        await read_all(old, tmp_path)
        new = MemoryBus("archived", lambda: START_MS + 10_000.0)
        await new.publish(Feed.LOG, [a_log("r3")])
        await read_all(new, tmp_path)
        await read_all(new, tmp_path)

    run(test())
    assert ids_in(tmp_path) == ["r1", "r2", "r3"]
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert [(gap.feed, gap.entries) for gap in manifest.gaps] == [("log", None)]
    assert "lost data" in manifest.gaps[0].reason


def test_rows_of_every_table_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated_run(tmp_path)
    with load(tmp_path) as archived:
        for table in TABLES:
            row = archived.frame(table).row(0, named=True)
            print_row(table, row, as_json=False)
            print_row(table, row, as_json=True)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 * len(TABLES)
    assert "outcome=ok" in shown[0]
    assert all(set(json.loads(line)) >= {"schema", "table", "stream_id"} for line in shown[1::2])


def test_without_polars_files_stay_json_lines_and_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ConfigurationError("this needs polars, which is not installed")

    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log("r1")])
        with opened(tmp_path) as files:
            stop = asyncio.Event()
            stop.set()
            await Archiver(bus, files, now_ms).run(stop)

    monkeypatch.setattr(archiver, "polars", missing)
    run(test())
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.state, [s.format for s in manifest.tables["requests"]]) == ("closed", ["jsonl"])
    assert ids_in(tmp_path) == ["r1"]


def test_two_processes_never_write_one_archive(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConfigurationError, match="another process"), opened(tmp_path):
        pass


def test_an_archive_of_another_deployment_or_of_nobody_is_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "a"):
        pass
    before = (tmp_path / "a" / FILE).read_bytes()
    with pytest.raises(ConfigurationError, match="of deployment 'archived'"), opened(tmp_path / "a", "other"):
        pass
    assert (tmp_path / "a" / FILE).read_bytes() == before
    (tmp_path / "b" / "requests").mkdir(parents=True)
    (tmp_path / "b" / "requests" / "000001.jsonl").write_text("mine\n")
    with pytest.raises(ConfigurationError, match="no manifest.json"), opened(tmp_path / "b"):
        pass
    assert (tmp_path / "b" / "requests" / "000001.jsonl").read_text() == "mine\n"


def test_rows_that_vanished_from_a_file_are_told(tmp_path: Path) -> None:
    run(read_all_of_two(tmp_path))
    os.truncate(tmp_path / "requests" / "000001.jsonl", 10)
    with pytest.raises(ConfigurationError, match="rows are missing"), opened(tmp_path):
        pass


async def read_all_of_two(folder: Path) -> None:
    bus = memory_bus()
    await bus.publish(Feed.LOG, [a_log("r1", "r2")])
    await read_all(bus, folder)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Not a directory"), opened(tmp_path / "file" / "archive"):
        pass


def test_on_a_full_disk_what_was_written_holds_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def test() -> None:
        bus = memory_bus()
        await bus.publish(Feed.LOG, [a_log("r1")])
        with opened(tmp_path) as files:
            reader = Archiver(bus, files, now_ms)
            await reader.read(block_s=0.0)
            await bus.publish(Feed.LOG, [a_log(*(f"s{n}" for n in range(200)))])
            with full_disk(20_000):
                for _ in range(2):
                    with pytest.raises(ArchiveWriteError, match="File too large"):
                        await reader.read(block_s=0.0)
                assert ids_in(tmp_path) == ["r1"]
            await reader.read(block_s=0.0)

    run(test())
    assert ids_in(tmp_path) == ["r1", *(f"s{n}" for n in range(200))]


def test_newer_and_damaged_manifests_are_refused(tmp_path: Path) -> None:
    run(read_all_of_two(tmp_path))
    path = tmp_path / FILE
    good = path.read_bytes()
    for change in ({"schema": 99}, {"tables_version": 99}):
        path.write_bytes(msgspec.json.encode(msgspec.json.decode(good) | change))
        for attempt in (lambda: load(tmp_path), lambda: opened(tmp_path).__enter__()):
            with pytest.raises(ConfigurationError, match="99"):
                attempt()
    path.write_bytes(good[:50])
    with pytest.raises(ConfigurationError, match="is not a manifest"):
        load(tmp_path)
