"""What the tests of worker processes share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clover.bus.messages import Request
from clover.serving.port import InstanceSpec
from clover.serving.process import ProcessServicer
from clover.serving.worker_process import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


def run(test: Coroutine[Any, Any, None], *, limit_s: float = 20.0) -> None:
    """Run a test coroutine; a hang is a failure after `limit_s`."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await test

    asyncio.run(bounded())


def spec(variant: str, *, slices: int = 7, application: str = "efficientnet_lite", memory_mib: int = 0) -> InstanceSpec:
    return InstanceSpec(
        application=application,
        variant=variant,
        profile=f"{slices}g",
        compute_slices=slices,
        total_slices=7,
        device="",
        name=f"n1/gpu0/{slices}g@0",
        memory_mib=memory_mib,
    )


def request(payload: bytes, content_type: str = "application/octet-stream") -> Request:
    return Request(
        id="r1",
        application="efficientnet_lite",
        due_ms=0.0,
        deadline_ms=0.0,
        reply_to="p1",
        content_type=content_type,
        payload=payload,
    )


@contextlib.asynccontextmanager
async def fakes(**settings: float) -> AsyncIterator[ProcessServicer]:
    """A servicer of fake workers, closed at the end whatever happens."""
    servicer = ProcessServicer(command=FAKE, settings=WorkerSettings(**settings))
    try:
        yield servicer
    finally:
        await servicer.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children() -> set[int]:
    """Process ids of the children of this process, zombies included (Linux)."""
    tasks = Path("/proc/self/task")
    found: set[int] = set()
    for task in tasks.iterdir():
        # A thread may end between its being listed and read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, task.joinpath("children").read_text().split()))
    return found


async def eventually(condition: Callable[[], bool], *, limit_s: float = 10.0) -> None:
    """Return as soon as the condition holds; the test fails with a timeout otherwise."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what it looks at (processes) tells nobody
            await asyncio.sleep(0.01)
