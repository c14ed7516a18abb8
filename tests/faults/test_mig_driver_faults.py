"""Drivers and boards that will not or cannot: modes that wait, rights that lack, drivers that are old, away or hang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from changed_gpu import A100, AFTER, AFTER_SHAPE, BEFORE, create, opened, prepared, shape
from mig_boards import run
from nvml_fake import HOPPER, FakeNvml

from mig.apply import apply, plan
from mig.errors import (
    DeviceBusyError,
    DriverTimeoutError,
    DriverTooOldError,
    NoDriverError,
    PermissionDeniedError,
    ResetRequiredError,
)
from mig.nvml import NvmlDriver
from mig.store import MemoryStore


def test_a_mode_that_is_pending_is_refused_before_anything_is_changed(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        fake_nvml.add_gpu(A100, mode=False, architecture=HOPPER)
        fake_nvml.set_activation(0, "after_reset")
        async with opened(fake_nvml) as gpu:
            with pytest.raises(ResetRequiredError, match="the status of its activation is 16: expected it in force"):
                await gpu.set_mode(enabled=True)
            for refused in (apply(gpu, ["7g"], store), plan(gpu, ["7g"], store)):
                with pytest.raises(ResetRequiredError, match="becomes on at the next reset"):
                    await refused
            fake_nvml.reset_gpu(0)
            # The handle of before the reset is no good any more; a new session finds the GPU.
        async with opened(fake_nvml) as gpu:
            assert (await apply(gpu, ["7g"], store)).ok

    run(body)


def test_a_mode_that_is_refused_because_the_gpu_is_in_use_names_who(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100, mode=False, architecture=HOPPER)
        fake_nvml.use_gpu(0, pid=815)
        async with opened(fake_nvml) as gpu:
            with pytest.raises(DeviceBusyError, match="the GPU is in use by process 815") as caught:
                await gpu.set_mode(enabled=True)
            assert [each.pid for each in caught.value.holders] == [815]
            assert (await gpu.mode()).waits_for_reset
            fake_nvml.use_gpu(0, pid=0)
            assert (await gpu.set_mode(enabled=True, allow_reset=True)).current

    run(body)


def test_without_permission_it_says_which_and_reads_what_may_be_read(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store):
            pass
        fake_nvml.set_rights("user")
        async with opened(fake_nvml) as gpu:
            assert "this user may not read the driver's" in gpu.notes[0]
            assert gpu.model.profiles == A100.profiles
            assert (await gpu.mode()).current
            assert len(await gpu.devices()) == 3
            for refused in (gpu.instances(), apply(gpu, ["7g"], store), create(gpu, "1g", 0), gpu.destroy(1)):
                with pytest.raises(PermissionDeniedError, match="expected the privilege mig/config") as caught:
                    await refused
                assert caught.value.privilege == "mig/config"
                assert "capability mig/config" in caught.value.hint
            with pytest.raises(DeviceBusyError, match="it holds 3 instances"):
                await gpu.set_mode(enabled=False)
            fake_nvml.reset_gpu(0)
        async with opened(fake_nvml) as gpu:
            with pytest.raises(PermissionDeniedError, match="expected the privilege root"):
                await gpu.set_mode(enabled=False)
        fake_nvml.set_rights("config")
        async with opened(fake_nvml) as gpu:
            assert (await apply(gpu, ["7g"], store)).ok
            assert (await apply(gpu, [], store)).ok
            with pytest.raises(PermissionDeniedError, match="expected the privilege root"):
                await gpu.set_mode(enabled=False)

    run(body)


def test_without_permission_a_board_that_is_not_known_has_no_model(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        fake_nvml.add_profile(0, 0x5, 77, "8g.80gb", slices=8, places=[(0, 8)])
        fake_nvml.set_rights("user")
        async with opened(fake_nvml) as gpu:
            with pytest.raises(PermissionDeniedError, match="reading its placements"):
                _ = gpu.model
            assert await gpu.devices() == ()

    run(body)


def test_no_driver_at_all_is_told_by_name(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from mig.errors import NoDriverError\n"
        "from mig.nvml import NvmlDriver\n"
        "async def main():\n"
        "    try:\n"
        "        async with NvmlDriver(): pass\n"
        "    except NoDriverError as error:\n"
        "        print(error, '|', error.hint)\n"
        "asyncio.run(main()); asyncio.run(main())\n"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "", "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    # Twice: a session that did not begin does not keep the next one out.
    assert done.stdout.count("there is no NVIDIA driver (libnvidia-ml.so.1 is not installed): expected a driver |") == 2


def test_a_kernel_module_that_is_not_loaded_is_told_by_name(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.set_loaded(False)
        with pytest.raises(NoDriverError, match="the NVIDIA kernel module is not loaded"):
            async with NvmlDriver():
                pass

    run(body)


def test_an_old_driver_without_the_newer_functions_is_enough(
    nvml_libraries: Callable[[int], Path], tmp_path: Path
) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with opened(fake) as gpu:
            assert gpu.model.name == "a100-40gb"
            # The old structure has no names; they are built, and agree with those of newer drivers.
            assert gpu.model.profiles == A100.profiles
            assert (await apply(gpu, BEFORE, store)).ok
            assert (await apply(gpu, AFTER, store)).ok
            assert await shape(gpu) == AFTER_SHAPE
            busy = (await gpu.instances())[0]
            fake.use(0, busy.id, pid=9)
            assert [each.pid for each in await gpu.holders(busy.id)] == [9]
            # It cannot tell whether the board resets itself for its mode, so that is assumed.
            fake.leave(0, busy.id)
            assert (await apply(gpu, [], store)).ok
            with pytest.raises(ResetRequiredError):
                await gpu.set_mode(enabled=False)

    fake = FakeNvml(nvml_libraries(1), tmp_path / "state")
    fake.add_gpu(A100)
    with fake.loaded():
        run(body)


def test_a_driver_too_old_for_explicit_placements_creates_nothing(
    nvml_libraries: Callable[[int], Path], tmp_path: Path
) -> None:
    async def body() -> None:
        async with opened(fake) as gpu:
            report = await apply(gpu, BEFORE, MemoryStore())
            assert report.state == "rolled_back"
            assert isinstance(report.error, DriverTooOldError)
            assert await gpu.instances() == ()

    fake = FakeNvml(nvml_libraries(2), tmp_path / "state")
    fake.add_gpu(A100)
    with fake.loaded():
        run(body)


def test_a_driver_that_hangs_is_not_waited_for_and_not_asked_again_meanwhile(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        fake_nvml.add_gpu(A100)
        async with opened(fake_nvml, call_timeout_s=0.2) as gpu:
            fake_nvml.set_latency(0.8)
            with pytest.raises(DriverTimeoutError, match="GPU 0: creating 7g.40gb: the driver has not answered"):
                await create(gpu, "7g", 0)
            with pytest.raises(DriverTimeoutError):
                await gpu.instances()
            fake_nvml.set_latency(0.0)

    run(body)
