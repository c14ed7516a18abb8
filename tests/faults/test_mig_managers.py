"""A manager that is killed while it changes a GPU, and two managers of one GPU: the others are other processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from changed_gpu import AFTER, AFTER_SHAPE, BEFORE, calls_of_one_apply, opened, prepared, shape
from mig_boards import run
from nvml_fake import Action, FakeNvml

from mig.apply import apply, plan
from mig.errors import GpuLockedError
from mig.store import FileStore

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
