"""One thread to which blocking calls are handed one after the other, so that an event loop never waits for them.

Not an executor of the standard library: its threads are joined when the interpreter ends, and a driver call that never
returns would keep the process for ever.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from mig.errors import DriverTimeoutError

ResultT = TypeVar("ResultT")


class OwnerThread:
    """A thread that does jobs in order of arrival.

    Args:
        name: Of the thread.
        timeout_s: How long one job is waited for, s.
    """

    def __init__(self, name: str, *, timeout_s: float) -> None:
        # Bounded: by its callers, each of whom waits for his own job.
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._timeout_s = timeout_s
        self._overdue: str | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, what: str, job: Callable[[], ResultT]) -> ResultT:
        """Do a job in the thread and return what it returns.

        On cancellation a job that has begun is finished all the same, and the next one waits for it.

        Args:
            what: What it does, for messages.
            job: What to do.

        Raises:
            DriverTimeoutError: It took too long (it goes on), or an earlier one still does.
        """
        if self._overdue is not None:
            raise self._late(self._overdue)
        future: Future[ResultT] = Future()
        self._jobs.put(lambda: self._do(future, job))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.cancelled():
                raise self._late(what) from None
            self._overdue = what
            future.add_done_callback(lambda _: self._caught_up())
            raise self._late(what) from None

    def close(self) -> None:
        """End the thread after the jobs that were handed over."""
        self._jobs.put(None)

    def _caught_up(self) -> None:
        self._overdue = None

    def _late(self, what: str) -> DriverTimeoutError:
        return DriverTimeoutError(
            f"{what}: the driver has not answered for {self._timeout_s:g} s: expected an answer",
            hint="See the kernel log; a driver that hangs may need a reboot.",
        )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    @staticmethod
    def _do(future: Future[ResultT], job: Callable[[], ResultT]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
