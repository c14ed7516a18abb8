"""A worker's process: frames in, frames out, and the certainty of hearing of its death."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from clover.serving.framing import (
    Exhausted,
    Failed,
    FrameError,
    FromWorker,
    Job,
    Ping,
    Pong,
    Ready,
    Refused,
    Result,
    Start,
    encode,
    read_from_worker,
)
from clover.serving.last_words import LastWords, describe_ending
from clover.serving.port import ServingError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from clover.serving.port import InstanceSpec

_log = logging.getLogger(__name__)

Answer = Result | Refused | Exhausted

#: How long a process may take to vanish after SIGKILL, or its stderr to end after its death, s.
_REAP_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How long things may take, s, and what a core draws.

    Attributes:
        ready_s: Start of the process to a warm model.
        request_s: One request; a worker that takes longer is taken for hung and killed.
        stop_s: End of input to end of process; then it is killed.
        heartbeat_s: How often an idle worker is asked for a sign of life.
        silent_s: An idle worker that has not given one for this long is taken for hung and killed.
        power_w_per_core: Dynamic power of one busy core, W.
    """

    ready_s: float = 60.0
    request_s: float = 60.0
    stop_s: float = 5.0
    heartbeat_s: float = 5.0
    silent_s: float = 20.0
    power_w_per_core: float = 10.0


class WorkerProcess:
    """The process of one worker and what is said to it, one thing at a time.

    Everything that is read from the process is read by one supervising task, which lives as long as the
    process and ends by settling what is open: the jobs in flight fail, `wait_died` returns.

    Args:
        spec: What it serves, for messages.
        process: Just started, with all three pipes.
        settings: How long things may take.
        log: Where what it writes to stderr is kept; None keeps only the last lines.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        process: asyncio.subprocess.Process,
        settings: WorkerSettings,
        *,
        log: Path | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._spec = spec
        self._process = process
        self._settings = settings
        self._stdin, self._stdout, self._stderr = _pipes(process)
        #: Held by whoever asks.
        self.turn = asyncio.Lock()
        # By the number of the job.
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._pong: asyncio.Future[None] | None = None
        self._ready: asyncio.Future[Ready | Failed] = loop.create_future()
        self._died: asyncio.Future[str] = loop.create_future()
        self._cause = ""
        self._stopping = False
        self._last_words = LastWords(log)
        self._supervisor = asyncio.create_task(self._supervise(), name=f"worker {spec.name}")

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended and everybody who waited was told."""
        return self._supervisor.done()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that it wrote to stderr, at most 20, oldest first."""
        return self._last_words.lines

    # --- what is said to it

    async def begin(self, start: Start) -> Ready | Failed:
        """Send the start frame and return what the worker says to it; if there is no answer it has ended.

        Raises:
            ServingError: It did not answer in time, or died.
        """
        try:
            return await self._first_answer(start)
        except BaseException:
            self._kill("its start was broken off")
            await self._ended()
            raise

    async def _first_answer(self, start: Start) -> Ready | Failed:
        try:
            async with asyncio.timeout(self._settings.ready_s):
                await self._send(encode(start))
                return await self._ready
        except TimeoutError as exc:
            late = f"was not ready after {self._settings.ready_s:g} s{self._last_words}"
            raise ServingError(f"{self._spec.name} ({self._spec.variant}) {late}") from exc
        except WorkerDiedError as exc:
            raise ServingError(f"{self._spec.name} ({self._spec.variant}) did not start: {exc}") from exc

    async def ask(self, jobs: Sequence[Job]) -> list[Answer]:
        """Send jobs and return their answers; for whoever holds the turn.

        Raises:
            WorkerDiedError: It died, or did not answer in time and was killed.
        """
        if self._stopping or self._died.done():
            raise WorkerDiedError(self._died.result() if self._died.done() else f"{self._spec.name} is stopping")
        loop = asyncio.get_running_loop()
        self._answers = {job.number: loop.create_future() for job in jobs}
        try:
            async with asyncio.timeout(self._settings.request_s):
                # In one piece: a part of a batch, left by somebody who was cancelled, would swallow the next jobs.
                await self._send(b"".join(map(encode, jobs)))
                return [await answer for answer in self._answers.values()]
        except TimeoutError as exc:
            self._kill(f"it did not answer within {self._settings.request_s:g} s")
            await self._ended()
            raise WorkerDiedError(self._reason()) from exc
        finally:
            self._answers = {}

    async def wait_died(self) -> str:
        """Wait until the process has ended and return why."""
        return await asyncio.shield(self._died)

    async def stop(self) -> None:
        """Close the worker's input, let it finish what it is doing, and kill it if that takes too long."""
        self._stopping = True
        self._stdin.close()
        try:
            async with asyncio.timeout(self._settings.stop_s):
                await asyncio.shield(self._supervisor)
        except TimeoutError:
            self._kill("it did not stop when asked")
            await self._ended()
        except asyncio.CancelledError:
            self._kill("its stop was broken off")
            raise

    async def _send(self, frame: bytes) -> None:
        """Write a frame; a closed pipe is no error here: the supervisor tells of the death and its cause."""
        with contextlib.suppress(ConnectionError):
            self._stdin.write(frame)
            await self._stdin.drain()

    # --- supervision

    async def _supervise(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                errors = group.create_task(self._last_words.collect(self._stderr), name=f"stderr {self._spec.name}")
                heart = group.create_task(self._listen_to_the_heart(), name=f"heartbeat {self._spec.name}")
                await self._read_answers()
                heart.cancel()
                await self._reap()
                # A process that the worker left behind may hold the pipe open for ever.
                await asyncio.wait({errors}, timeout=_REAP_S)
                errors.cancel()
        finally:
            self._kill("its agent ended")
            self._stdin.close()
            self._settle()

    async def _listen_to_the_heart(self) -> None:
        """Ask the worker for a sign of life whenever it has nothing to do; its requests have a limit of their own."""
        await asyncio.wait({self._ready})
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            if self._stopping or self.turn.locked():
                continue
            async with self.turn:
                self._pong = asyncio.get_running_loop().create_future()
                try:
                    async with asyncio.timeout(self._settings.silent_s):
                        await self._send(encode(Ping()))
                        await self._pong
                except TimeoutError:
                    self._kill(f"it was idle and gave no sign of life for {self._settings.silent_s:g} s")
                    return
                finally:
                    self._pong = None

    async def _read_answers(self) -> None:
        """Hand out frames until the worker closes its output or writes something else."""
        try:
            while (frame := await read_from_worker(self._stdout)) is not None:
                self._take(frame)
        except FrameError as exc:
            self._kill(f"it wrote garbage: {exc}")

    def _take(self, frame: FromWorker) -> None:
        if isinstance(frame, Ready | Failed):
            if not self._ready.done():
                self._ready.set_result(frame)
        elif isinstance(frame, Pong):
            if self._pong is not None and not self._pong.done():
                self._pong.set_result(None)
        elif (answer := self._answers.get(frame.number)) is not None and not answer.done():
            answer.set_result(frame)
        # Anything else is the answer to a request that was cancelled.

    async def _reap(self) -> None:
        """Wait for the process, which has closed its output and so can do nothing useful any more."""
        try:
            async with asyncio.timeout(self._settings.stop_s):
                await self._process.wait()
        except TimeoutError:
            self._kill("it closed its output but did not end")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REAP_S):
                    await self._process.wait()

    def _settle(self) -> None:
        """Tell everybody who waits that the worker is gone."""
        reason = self._reason()
        if not self._stopping:
            _log.warning("%s", "\n  ".join((reason, *self._last_words.lines)))
        waiting: tuple[asyncio.Future[Ready | Failed] | asyncio.Future[Answer], ...]
        waiting = (self._ready, *self._answers.values())
        for future in waiting:
            if not future.done():
                future.set_exception(WorkerDiedError(reason))
                # Whoever was waiting may have been cancelled; that is not worth a message of the event loop.
                future.exception()
        if not self._died.done():
            self._died.set_result(reason)

    async def _ended(self) -> None:
        """Wait for the supervisor after a kill; a process that even SIGKILL does not end is the kernel's."""
        await asyncio.wait({self._supervisor}, timeout=2 * _REAP_S)

    def _kill(self, cause: str) -> None:
        """Send SIGKILL if the process still runs; the first cause is the one that is told."""
        if self._process.returncode is None:
            self._cause = self._cause or cause
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _reason(self) -> str:
        who = f"worker {self._spec.name} ({self._spec.variant}, pid {self._process.pid})"
        if self._cause:
            return f"{who} was killed: {self._cause}{self._last_words}"
        if self._stopping:
            return f"{who} was stopped"
        return f"{who} {describe_ending(self._process.returncode)}{self._last_words}"


def _pipes(
    process: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamReader]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("a worker process needs all three pipes")
    return process.stdin, process.stdout, process.stderr
