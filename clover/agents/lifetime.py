"""How long work lasts: until somebody says stop, or until something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

#: Work that goes on for so long after it was cancelled is cancelled again.
INSIST_S = 5.0


async def until_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine until it ends or `stop` is set; then cancel it and wait for its clean-up.

    An exception of the work is raised as it is, not inside a group of one. A task group whose member fails in the same
    moment forgets that it was cancelled (CPython before 3.13, gh-116720), so it is cancelled again if it goes on.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            watcher = group.create_task(stop.wait())
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            watcher.cancel()
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=INSIST_S)
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise


async def happens_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event at most so long (None: for ever); return whether it happened."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
