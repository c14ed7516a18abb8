"""Records and writer locks in a directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mig.errors import GpuLockedError, RecordError
from mig.ownership import GpuRecord, PlacedName, RecordedInstance
from mig.store import STATE_VARIABLE, FileStore

GPU = "GPU-1"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "records")


def with_one(store: FileStore) -> GpuRecord:
    one = RecordedInstance(id=3, profile="3g.20gb", start=4, uuid="MIG-x")
    return msgspec.structs.replace(store.read(GPU), ours=(one,), creating=PlacedName(profile="1g.5gb", start=0))


def test_a_record_comes_back_as_it_was_written(store: FileStore) -> None:
    assert store.read(GPU).ours == ()
    record = with_one(store)
    store.write(record)
    assert store.read(GPU) == record
    assert [path.name for path in store.directory.iterdir()] == [f"{GPU}.json"]


def test_the_directory_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "elsewhere"))
    assert FileStore().directory == tmp_path / "elsewhere"


def test_a_record_of_another_boot_is_empty(store: FileStore) -> None:
    store.write(msgspec.structs.replace(with_one(store), boot_id="another"))
    assert store.read(GPU) == GpuRecord(gpu_uuid=GPU, boot_id=with_one(store).boot_id)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"gpu_uuid": 3, "boot_id": ""}', b'{"gpu_uuid": "a", "x": 1}'])
def test_a_record_that_is_no_record_is_refused_by_name(store: FileStore, text: bytes) -> None:
    store.write(with_one(store))
    path = store.directory / f"{GPU}.json"
    path.write_bytes(text)
    with pytest.raises(RecordError, match=f"record {path}: .*expected a file") as caught:
        store.read(GPU)
    assert "Remove it" in caught.value.hint


def test_a_record_of_another_gpu_or_version_is_refused(store: FileStore) -> None:
    store.write(with_one(store))
    (store.directory / f"{GPU}.json").rename(store.directory / "GPU-2.json")
    with pytest.raises(RecordError, match="version 1 of GPU-1, expected version 1 of GPU-2"):
        store.read("GPU-2")


def test_a_record_that_others_may_write_or_that_is_a_link_is_not_trusted(store: FileStore, tmp_path: Path) -> None:
    store.write(with_one(store))
    path = store.directory / f"{GPU}.json"
    path.chmod(0o666)
    with pytest.raises(RecordError, match="others may write to it"):
        store.read(GPU)
    path.rename(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    with pytest.raises(RecordError, match="record"):
        store.read(GPU)


def test_a_gpu_uuid_cannot_lead_elsewhere(store: FileStore) -> None:
    with pytest.raises(RecordError, match="expected a name without slashes"):
        store.read("../x")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FileStore(tmp_path / "file" / "records")
    with pytest.raises(RecordError, match=str(tmp_path / "file")), store.lock(GPU):
        pass
    with pytest.raises(RecordError, match=str(tmp_path / "file")):
        store.write(GpuRecord(gpu_uuid=GPU, boot_id=""))


def test_a_lock_is_held_by_one_and_tells_by_whom(store: FileStore) -> None:
    with store.lock(GPU):
        with pytest.raises(GpuLockedError, match=f"GPU {GPU} is managed by (process {os.getpid()}|another process)"):
            store.lock(GPU).__enter__()
        with store.lock("GPU-2"):
            pass
    with store.lock(GPU):
        pass


def test_a_lock_ends_with_its_process_even_if_that_is_killed(store: FileStore) -> None:
    program = (
        "import sys; from pathlib import Path; from mig.store import FileStore\n"
        f"with FileStore(Path({str(store.directory)!r})).lock({GPU!r}):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(GpuLockedError, match=f"process {holder.pid}|another process"):
            store.lock(GPU).__enter__()
        holder.kill()
    with store.lock(GPU):
        pass
