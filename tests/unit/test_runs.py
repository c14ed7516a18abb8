"""Run folders: written once, never over another, readable whatever happened, compared."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clover.runs.compare import compare
from clover.runs.folder import RunFolder, default_runs_folder, find_run, iso, list_runs, run_name
from clover.runs.record import Git, Hardware, RunError, RunRecord, Setting, Surroundings, decode_record, encode_record
from clover.runs.surroundings import git_state, hashed, surroundings


def _about(**changes: Any) -> Surroundings:
    about = Surroundings(
        clover="1", python="3.11", packages={}, git=Git(commit="abc", dirty=False), platform="p", host="h",
        processors=2, memory_bytes=1, variables={}, arguments=("up",),
    )  # fmt: skip
    return msgspec.structs.replace(about, **changes)


def _record(run: str = "r1", **changes: Any) -> RunRecord:
    record = RunRecord(
        run=run, command="up", started_at="2026-01-01T00:00:00Z", started_ms=0, deployment="clover", seed=1,
        settings={"gpus": Setting(value=10, origin="default")}, inputs=(),
        hardware=Hardware(label="SIM", backend="sim", gpu_model="a100-40gb", gpus={"n1": 5}),
        surroundings=_about(), pid=os.getpid(), pid_started="x",
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def _living(_pid: int, _started: str) -> bool:
    return True


def _gone(_pid: int, _started: str) -> bool:
    return False


def test_a_run_is_written_found_and_read_back(tmp_path: Path):
    folder = RunFolder.create(tmp_path, _record())
    folder.write_json("summary.json", {"p95_ms": 12.5})
    assert find_run(tmp_path, "r1", _living).state == "open"
    assert find_run(tmp_path, "r1", _gone).state == "abandoned"
    folder.finish("finished", 2000.0)
    found = find_run(tmp_path, "last", _gone)
    assert (found.state, found.record.ended_ms, found.summary()) == ("finished", 2000, {"p95_ms": 12.5})
    assert found.record == decode_record(encode_record(found.record), "here")
    assert find_run(tmp_path, str(found.path), _gone).record == found.record
    assert sorted(path.name for path in folder.path.iterdir()) == ["run.json", "summary.json"]


def test_nothing_is_overwritten(tmp_path: Path):
    folder = RunFolder.create(tmp_path, _record())
    with pytest.raises(RunError, match=r"r1: exists already, and is not overwritten"):
        RunFolder.create(tmp_path, _record())
    folder.write_json("summary.json", {"a": 1})
    with pytest.raises(RunError, match=r"summary.json: File exists"):
        folder.write_json("summary.json", {"a": 2})
    assert json.loads((folder.path / "summary.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "x" * 101])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str):
    with pytest.raises(RunError, match="expected letters"):
        RunFolder.create(tmp_path, _record(name))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_one_line_with_a_hint(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run folder .*file/r1: (File exists|Not a directory)") as caught:
        RunFolder.create(tmp_path / "file", _record())
    assert "--runs-dir" in caught.value.hint


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder.create(tmp_path, _record())

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"summary.json: No space left on device"):
        folder.write_json("summary.json", {"a": 1})
    assert not (folder.path / "summary.json").exists()


def test_runs_are_listed_by_time_and_unreadable_ones_named(tmp_path: Path):
    RunFolder.create(tmp_path, _record("b", started_ms=1))
    RunFolder.create(tmp_path, _record("az", started_ms=2))
    RunFolder.create(tmp_path, _record("newer"))
    newer = json.loads((tmp_path / "newer" / "run.json").read_text()) | {"schema": 99}
    (tmp_path / "newer" / "run.json").write_text(json.dumps(newer))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "server").mkdir()
    found, troubles = list_runs(tmp_path, _living)
    assert [run.record.run for run in found] == ["b", "az"]
    assert any("schema = 99" in line for line in troubles)
    assert any("broken" in line for line in troubles)
    with pytest.raises(RunError, match="there is none of this name"):
        find_run(tmp_path, "c", _living)
    RunFolder.create(tmp_path, _record("ab", started_ms=3))
    with pytest.raises(RunError, match="2 runs begin so: az, ab"):
        find_run(tmp_path, "a", _living)


def test_a_missing_folder_of_runs_is_empty(tmp_path: Path):
    assert list_runs(tmp_path / "nowhere", _living) == ([], [])


def test_differences_name_causes_before_effects_and_their_size():
    a, b = _record(), _record("r2", started_ms=5, settings={"gpus": Setting(value=12, origin="flag")})
    b = msgspec.structs.replace(b, surroundings=_about(git=Git(commit="def", dirty=True)))
    found = compare(a, b, {"p95_ms": 100.0, "requests": {"lost": 0}}, {"p95_ms": 150.0, "requests": {"lost": 1}})
    told = [(one.group, one.name, one.a, one.b, one.change_pct) for one in found]
    assert told == [
        ("settings", "gpus", 10, 12, 20.0),
        ("surroundings", "git.commit", "abc", "def", None),
        ("surroundings", "git.dirty", False, True, None),
        ("summary", "p95_ms", 100.0, 150.0, 50.0),
        ("summary", "requests.lost", 0, 1, None),
    ]
    assert compare(a, a, None, None) == []


def test_surroundings_hold_versions_and_no_secret():
    variables = {
        "CLOVER_REDIS": "redis://me:hush@host:1",
        "CLOVER_REDIS_PASSWORD": "hush",
        "CLOVER_EIA_KEY": "hush",
        "CLOVER_REDIS_KEY": "hush",
        "CLOVER_GPUS": "3",
        "PATH": "/bin",
    }
    about = surroundings(["up", "--redis", "redis://me:hush@host:1"], variables)
    assert "hush" not in encode_record(_record(surroundings=about)).decode()
    assert about.variables["CLOVER_GPUS"] == "3"
    assert "PATH" not in about.variables
    assert about.processors >= 1


def test_a_file_is_hashed_and_a_folder_without_git_has_no_commit(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"abc")
    file = hashed("arrival trace", path)
    # FIPS 180-4, example of SHA-256.
    assert file.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file.size_bytes == 3
    assert git_state(tmp_path) is None
    with pytest.raises(RunError, match="No such file"):
        hashed("arrival trace", tmp_path / "none")


def test_names_and_times():
    assert run_name("up", 0.0, "a7") == "19700101-000000-up-a7"
    assert iso(1500.0) == "1970-01-01T00:00:01.500Z"


def test_the_place_of_runs_is_no_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("CLOVER_RUNS", raising=False)
    assert default_runs_folder(tmp_path) == tmp_path / "runs"
    monkeypatch.setenv("CLOVER_RUNS", "elsewhere")
    assert default_runs_folder(tmp_path) == Path("elsewhere")
