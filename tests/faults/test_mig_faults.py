"""What may go wrong while a GPU is being changed: each ends in a named state, and the same can be applied again.

All run on `NvmlGpu` over the fake driver and the unmodified `pynvml`; other managers are other processes.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mig_boards import PATIENCE, run
from nvml_fake import HOPPER, Action, FakeNvml

from mig.apply import Hooks, apply, plan
from mig.apply_plan import ApplyReport, Step
from mig.change import Wanted
from mig.device import GpuInstance
from mig.errors import (
    DeviceBusyError,
    DriverError,
    DriverTimeoutError,
    DriverTooOldError,
    GpuLockedError,
    GpuLostError,
    InsufficientResourcesError,
    MigError,
    NoDriverError,
    PermissionDeniedError,
    ResetRequiredError,
    Shortage,
)
from mig.nvml import NvmlDriver, NvmlGpu
from mig.placement import place
from mig.profiles import gpu_model
from mig.store import FileStore, MemoryStore

A100 = gpu_model("a100-40gb")

# From 4g@0 2g@4 1g@6 to 4g@0 1g@4 1g@5 1g@6: one is destroyed, two are created, two stay.
BEFORE: Wanted = ("4g", "2g", "1g")
AFTER: Wanted = ("4g", "1g", "1g", "1g")
BEFORE_SHAPE, AFTER_SHAPE = "4g@0 2g@4 1g@6", "4g@0 1g@4 1g@5 1g@6"


@asynccontextmanager
async def opened(fake: FakeNvml, **options: float) -> AsyncIterator[NvmlGpu]:
    async with NvmlDriver(patience=PATIENCE, sleep=fake.sleep, **options) as driver:
        (gpu,) = await driver.gpus()
        yield gpu


@asynccontextmanager
async def prepared(fake: FakeNvml, store: MemoryStore | FileStore) -> AsyncIterator[NvmlGpu]:
    """A GPU that this manager has cut as `BEFORE`."""
    fake.add_gpu(A100, architecture=HOPPER)
    async with opened(fake) as gpu:
        assert (await apply(gpu, BEFORE, store)).ok
        yield gpu


async def shape(gpu: NvmlGpu) -> str:
    return " ".join(str(each.placed) for each in await gpu.instances())


async def create(gpu: NvmlGpu, size: str, start: int) -> GpuInstance:
    placed = place(gpu.model.profile(size), start)
    return await gpu.create(placed.profile, placed.placement)


def test_an_instance_that_is_busy_for_ever_is_reported_with_its_holder(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            before = await gpu.instances()
            fake_nvml.use(0, before[1].id, pid=4711)
            report = await apply(gpu, AFTER, store)
            assert report.state == "rolled_back"
            assert isinstance(report.error, DeviceBusyError)
            assert "in use by process 4711" in str(report.error)
            assert await gpu.instances() == before
            fake_nvml.leave(0, before[1].id)
            assert (await apply(gpu, AFTER, store)).state == "applied"
            assert await shape(gpu) == AFTER_SHAPE

    run(body)


def test_an_instance_that_is_busy_for_2_s_is_waited_for(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            fake_nvml.use(0, (await gpu.instances())[1].id, seconds=2.0)
            assert (await apply(gpu, AFTER, store)).state == "applied"

    run(body)


def test_an_instance_that_loses_its_device_and_cannot_go_gets_it_back(fake_nvml: FakeNvml) -> None:
    """The compute instance is destroyed, then the GPU instance is in use until patience is over."""

    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            attempts = len(list(PATIENCE.pauses())) + 1
            fake_nvml.fail(2, times=attempts, code=19, only_changes=True)
            report = await apply(gpu, AFTER, store)
            assert (report.state, type(report.error)) == ("rolled_back", DeviceBusyError)
            assert fake_nvml.changes() == attempts + 2
            assert await shape(gpu) == BEFORE_SHAPE
            assert all(each.is_whole for each in await gpu.instances())
            assert not store.read(gpu.uuid).foreign(await gpu.instances())

    run(body)


async def calls_of_one_apply(gpu: NvmlGpu, fake: FakeNvml, store: MemoryStore | FileStore) -> int:
    fake.fail(0)
    assert (await apply(gpu, AFTER, store)).state == "applied"
    calls = fake.calls()
    assert (await apply(gpu, BEFORE, store)).state == "applied"
    return calls


async def try_apply(gpu: NvmlGpu, wanted: Wanted, store: MemoryStore) -> ApplyReport | MigError:
    try:
        return await apply(gpu, wanted, store)
    except MigError as error:
        return error


@pytest.mark.parametrize("times", [1, 3, 1000])
@pytest.mark.parametrize("code", [999, 2, 6, 23], ids=["unknown", "invalid", "not-found", "no-resources"])
def test_a_driver_call_that_fails_at_every_n_ends_in_a_named_state(fake_nvml: FakeNvml, code: int, times: int) -> None:
    """The n-th call fails, three from the n-th on, and all from the n-th on."""
    ends: dict[str, int] = {}

    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            theirs_kept = {(await gpu.instances())[0], (await gpu.instances())[2]}
            for first in range(1, await calls_of_one_apply(gpu, fake_nvml, store) + 1):
                fake_nvml.fail(first, times=times, code=code)
                ended = await try_apply(gpu, AFTER, store)
                fake_nvml.fail(0)
                living = await gpu.instances()
                # Whatever happened: what the plan keeps is untouched, and all that lives is known as ours.
                assert theirs_kept <= set(living)
                assert not store.read(gpu.uuid).foreign(living)
                if isinstance(ended, ApplyReport):
                    ends[ended.state] = ends.get(ended.state, 0) + 1
                    _check(ended, living)
                else:
                    ends["refused"] = ends.get("refused", 0) + 1
                    assert await shape(gpu) == BEFORE_SHAPE
                assert (await apply(gpu, AFTER, store)).ok
                assert await shape(gpu) == AFTER_SHAPE
                assert (await apply(gpu, BEFORE, store)).ok

    run(body)
    # Early calls only read; one failure can be gone back from; going back takes a driver that answers.
    assert ends["refused"]
    assert ends[{1: "rolled_back", 3: "partial", 1000: "unknown"}[times]]


def _check(report: ApplyReport, living: tuple[GpuInstance, ...]) -> None:
    found = " ".join(str(each.placed) for each in living)
    if report.ok:
        assert found == AFTER_SHAPE
    else:
        assert isinstance(report.error, MigError)
    if report.state == "rolled_back":
        assert found == BEFORE_SHAPE
    if report.instances is not None:
        assert report.instances == living


def test_a_driver_lost_in_the_middle_of_an_apply_ends_unknown_and_the_next_apply_finishes(
    fake_nvml: FakeNvml,
) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            report = await apply(gpu, AFTER, store, hooks=Hooks(done=lambda _: fake_nvml.set_lost(0)))
            assert (report.state, report.instances) == ("unknown", None)
            assert isinstance(report.error, GpuLostError)
            assert isinstance(report.rollback_error, GpuLostError)
            with pytest.raises(GpuLostError, match="GPU 0"):
                await apply(gpu, AFTER, store)
            fake_nvml.set_lost(0, lost=False)
            assert (await apply(gpu, AFTER, store)).state == "applied"

    run(body)


def test_a_driver_lost_at_every_call_ends_in_a_named_state(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            for first in range(1, await calls_of_one_apply(gpu, fake_nvml, store) + 1):
                fake_nvml.fail(first, action="lose")
                ended = await try_apply(gpu, AFTER, store)
                assert isinstance(ended, GpuLostError) or (isinstance(ended, ApplyReport) and ended.state == "unknown")
                fake_nvml.fail(0)
                fake_nvml.set_lost(0, lost=False)
                assert (await apply(gpu, AFTER, store)).ok
                assert (await apply(gpu, BEFORE, store)).ok

    run(body)


APPLY = """
import asyncio, sys
from pathlib import Path
from mig.apply import Hooks, apply
from mig.nvml import NvmlDriver
from mig.store import FileStore

async def hold(_instance):
    print("draining", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

async def main(store, waits, wanted):
    async with NvmlDriver() as driver:
        (gpu,) = await driver.gpus()
        hooks = Hooks(drain=hold) if waits == "wait" else None
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        report = await apply(gpu, wanted.split("+"), FileStore(Path(store)), hooks=hooks)
        print(report.state, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Manager:
    """Another process that applies to the first GPU; it begins at a line of input."""

    def __init__(self, fake: FakeNvml, store: FileStore, wanted: str, *, waits: bool = False) -> None:
        arguments = [str(store.directory), "wait" if waits else "go", wanted]
        self.process = subprocess.Popen(
            [sys.executable, "-c", APPLY, *arguments],
            env=fake.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.says() == "ready"

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait for its end and close its pipes; it may have been killed and read nothing."""
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.mark.parametrize("action", ["kill_before", "kill_after"])
def test_killed_with_9_in_the_middle_of_an_apply_and_started_again(
    fake_nvml: FakeNvml, tmp_path: Path, action: Action
) -> None:
    """Before and after every call that changes the GPU, and at some of those that only read."""
    store = FileStore(tmp_path / "records")

    async def prepare() -> tuple[int, int]:
        async with prepared(fake_nvml, store) as gpu:
            calls = await calls_of_one_apply(gpu, fake_nvml, store)
            fake_nvml.fail(0)
            assert (await apply(gpu, AFTER, store)).ok
            changes = fake_nvml.changes()
            assert (await apply(gpu, BEFORE, store)).ok
            return calls, changes

    async def check() -> None:
        async with opened(fake_nvml) as gpu:
            living = await gpu.instances()
            # Nothing that we made is taken for somebody else's, half-made ones included.
            assert not store.read(gpu.uuid).foreign(living)
            assert {"4g@0", "1g@6"} <= {str(each.placed) for each in living}
            assert (await apply(gpu, AFTER, store)).ok
            assert await shape(gpu) == AFTER_SHAPE
            assert all(each.is_whole for each in await gpu.instances())
            assert (await apply(gpu, BEFORE, store)).ok

    calls, changes = asyncio.run(prepare())
    # A compute and a GPU instance are destroyed, two of each are created.
    assert changes == 6
    points = [(n, True) for n in range(1, changes + 1)] + [(n, False) for n in range(1, calls, 45)]
    for first, only_changes in points:
        manager = Manager(fake_nvml, store, "+".join(AFTER))
        fake_nvml.fail(first, action=action, only_changes=only_changes)
        manager.go()
        assert manager.end() == -signal.SIGKILL
        fake_nvml.fail(0)
        asyncio.run(check())


def test_two_managers_at_once_the_second_refuses(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "records")

    async def body() -> None:
        async with prepared(fake_nvml, store) as gpu:
            first = Manager(fake_nvml, store, "4g+1g+1g+1g", waits=True)
            first.go()
            assert first.says() == "draining"
            before = await gpu.instances()
            with pytest.raises(GpuLockedError, match=rf"is managed by (process {first.process.pid}|another process)"):
                await apply(gpu, ["7g"], store)
            assert await gpu.instances() == before
            # Looking is allowed to everyone.
            assert (await plan(gpu, BEFORE, store)).is_empty
            first.go()
            assert first.says() == "applied"
            assert first.end() == 0
            assert (await apply(gpu, ["7g"], store)).ok

    run(body)


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


def test_a_destroy_that_reports_success_and_leaves_the_instance_is_noticed(fake_nvml: FakeNvml) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu:
            fake_nvml.set_remnants(True)
            report = await apply(gpu, AFTER, store)
            assert report.state == "partial"
            assert isinstance(report.error, DriverError)
            assert "reports success and still lists it" in str(report.error)
            fake_nvml.set_remnants(False)
            assert (await apply(gpu, AFTER, store)).ok
            assert await shape(gpu) == AFTER_SHAPE

    run(body)


@pytest.mark.parametrize(
    ("size", "shortage", "state"), [("2g", "taken", "rolled_back"), ("1g", "already_there", "partial")]
)
def test_somebody_else_who_takes_the_slices_meanwhile_is_left_alone(
    fake_nvml: FakeNvml, size: str, shortage: Shortage, state: str
) -> None:
    async def body() -> None:
        store = MemoryStore()
        async with prepared(fake_nvml, store) as gpu, asyncio.TaskGroup() as group:
            intruders: list[asyncio.Task[GpuInstance]] = []

            def intrude(step: Step) -> None:
                if step.instance is not None and not intruders:
                    intruders.append(group.create_task(create(gpu, size, 4)))

            report = await apply(gpu, AFTER, store, hooks=Hooks(done=intrude))
            assert isinstance(report.error, InsufficientResourcesError)
            assert report.error.shortage == shortage
            # A 2g of theirs lies just where ours was, so the GPU is cut as before; a 1g stands in the way of that.
            assert report.state == state
            assert store.read(gpu.uuid).foreign(await gpu.instances()) == (await intruders[0],)

    run(body)
