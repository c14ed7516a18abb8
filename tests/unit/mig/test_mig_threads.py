"""The owner thread, patience, and finding out who uses a GPU."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from mig_boards import run

from mig.device import Holder
from mig.errors import DeviceBusyError, DriverTimeoutError
from mig.holders import capability_files, holders, pids_with_open
from mig.owner_thread import OwnerThread
from mig.patience import Patience, ask_until_free


def test_jobs_run_in_one_thread_in_order_and_off_the_loop() -> None:
    async def body() -> None:
        thread = OwnerThread("t", timeout_s=5.0)
        seen: list[tuple[int, int]] = []
        await asyncio.gather(
            *(thread.run("job", lambda n=n: seen.append((n, threading.get_ident()))) for n in range(20))
        )
        thread.close()
        assert [n for n, _ in seen] == list(range(20))
        assert {ident for _, ident in seen} != {threading.get_ident()}
        assert len({ident for _, ident in seen}) == 1

    run(body)


def test_what_a_job_raises_is_raised_where_it_is_awaited() -> None:
    async def body() -> None:
        thread = OwnerThread("t", timeout_s=5.0)
        with pytest.raises(ZeroDivisionError):
            await thread.run("job", lambda: 1 // 0)
        assert await thread.run("job", lambda: 7) == 7
        thread.close()

    run(body)


def test_a_late_job_is_not_waited_for_and_keeps_others_out_until_it_ends() -> None:
    async def body() -> None:
        thread, release = OwnerThread("t", timeout_s=0.05), threading.Event()
        with pytest.raises(DriverTimeoutError, match="first: the driver has not answered for 0.05 s"):
            await thread.run("first", lambda: release.wait(10))
        with pytest.raises(DriverTimeoutError, match="first: "):
            await thread.run("second", lambda: None)
        release.set()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await thread.run("third", lambda: 3) == 3
                    break
                except DriverTimeoutError:
                    await asyncio.sleep(0)
        thread.close()

    run(body)


def test_a_job_whose_caller_is_cancelled_before_it_begins_is_not_done() -> None:
    async def body() -> None:
        thread, release, done = OwnerThread("t", timeout_s=10.0), threading.Event(), list[int]()
        first = asyncio.ensure_future(thread.run("first", lambda: release.wait(10)))
        second = asyncio.ensure_future(thread.run("second", lambda: done.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        await first
        await thread.run("third", lambda: done.append(3))
        thread.close()
        assert done == [3]

    run(body)


def test_pauses_grow_and_end_at_the_deadline() -> None:
    assert list(Patience(total_s=1.0, first_s=0.1, most_s=0.4).pauses()) == pytest.approx([0.1, 0.2, 0.4, 0.3])
    assert list(Patience(total_s=0.0).pauses()) == []
    with pytest.raises(ValueError, match="total_s is -1"):
        Patience(total_s=-1)
    with pytest.raises(ValueError, match="first_s is 2: expected more than 0 and at most most_s, 1"):
        Patience(total_s=1, first_s=2)


def test_it_is_asked_until_free_and_the_last_refusal_is_raised() -> None:
    async def body() -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        async def busy() -> None:
            raise DeviceBusyError("busy")

        with pytest.raises(DeviceBusyError):
            await ask_until_free(busy, Patience(total_s=3.0), sleep)
        assert sum(slept) == pytest.approx(3.0)

    run(body)


def fake_proc(root: Path) -> Path:
    """Two processes; the second has a capability file open and cannot be read in part."""
    for pid, name in ((10, "idle"), (20, "worker")):
        (root / str(pid) / "fd").mkdir(parents=True)
        (root / str(pid) / "comm").write_text(name + "\n")
        (root / str(pid) / "fd" / "0").symlink_to("/dev/null")
    (root / "20" / "fd" / "5").symlink_to("/dev/nvidia-caps/nvidia-cap30")
    (root / "30").mkdir()
    (root / "self-test").mkdir()
    capabilities = root / "driver" / "nvidia" / "capabilities" / "gpu1" / "mig" / "gi7"
    (capabilities / "ci0").mkdir(parents=True)
    (capabilities / "access").write_text("DeviceFileMinor: 30\nDeviceFileMode: 256\n")
    (capabilities / "ci0" / "access").write_text("DeviceFileMinor: 31\n")
    return root


def test_holders_are_found_by_the_files_that_they_have_open(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path)
    files = capability_files(1, 7, proc)
    assert files == {"/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31"}
    assert pids_with_open(files, proc) == {20}
    assert pids_with_open((), proc) == frozenset()
    assert capability_files(0, 7, proc) == frozenset()
    assert holders([30, 20], proc) == (Holder(pid=20, command="worker"), Holder(pid=30))
    assert str(holders([20], proc)[0]) == "20 (worker)"


def test_this_process_is_found_by_a_file_that_it_has_open(tmp_path: Path) -> None:
    path = tmp_path / "device"
    with path.open("w"):
        assert os.getpid() in pids_with_open({str(path)})
    assert os.getpid() not in pids_with_open({str(path)})
