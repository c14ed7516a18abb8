"""The process of one instance, `python -m clover.serving.torch_worker NAME`; see `clover.serving.process`.

It reads frames (`clover.serving.framing`) from stdin and writes frames to what was its stdout; whatever
libraries print goes to stderr. It ends at the end of its input, and on Linux with its parent in any case. An
error nobody foresaw ends it with a traceback on stderr, which the parent keeps: a process in an unknown state
must not answer.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

from clover.parent import end_with_parent
from clover.serving.availability import MODELS_HINT, library_versions
from clover.serving.device import Place, choose_place
from clover.serving.duty import DutyCycle
from clover.serving.family import load_model, require_batches
from clover.serving.framing import (
    Exhausted,
    Failed,
    FromWorker,
    Job,
    Ping,
    Pong,
    Ready,
    Refused,
    Result,
    Start,
    encode,
    read_to_worker,
)
from clover.serving.memory import is_out_of_memory, limit_memory, resident_mib
from clover.serving.pinning import pin
from clover.serving.port import InvalidInputError, ServingError, first_line
from clover.serving.references import Fetcher
from clover.serving.together import Together, time_full_batch

if TYPE_CHECKING:
    from clover.serving.family import Model


def main() -> int:
    """Serve until the input ends; return the exit code."""
    output = _claim_stdout()
    _die_with_parent()
    start = read_to_worker(sys.stdin.buffer)
    if not isinstance(start, Start):
        return 0 if start is None else 1
    try:
        model, place, ready = _get_ready(start)
    except ServingError as exc:
        _send(output, Failed(reason=str(exc), hint=exc.hint))
        return 1
    # Not before: loading takes seconds, and would take them from whoever serves on that core meanwhile.
    pin(start.cpus)
    _send(output, ready)
    # A MIG device is a slice already; only a core has to be made look like one.
    duty = DutyCycle(start.fraction if place.device == "cpu" else 1.0)
    _Server(model, duty, start, output).run(sys.stdin.buffer)
    return 0


def _get_ready(start: Start) -> tuple[Model, Place, Ready]:
    """Load and warm up; `ServingError` says what is missing or too large."""
    began = time.monotonic()
    try:
        place = _prepare_torch(start)
        model = load_model(start.recipe)
        loaded = time.monotonic()
        model.warm_up()
        batch_ms = _batch_ms(model, start, place)
    except ImportError as exc:
        raise ServingError(f"real models cannot be served here: {exc}", hint=MODELS_HINT) from exc
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise ServingError(
            f"{start.recipe.variant} does not fit into the {start.memory_mib} MiB of its instance: out of memory"
        ) from exc
    ready = Ready(
        load_s=loaded - began,
        warm_up_s=time.monotonic() - loaded,
        device=place.name,
        memory_mib=resident_mib(),
        versions=library_versions(),
        fallback=place.fallback,
        batch_ms=batch_ms,
    )
    return model, place, ready


def _batch_ms(model: Model, start: Start, place: Place) -> float | None:
    if start.batch_size == 1:
        return None
    batching = require_batches(model, start.recipe)
    fraction = start.fraction if place.device == "cpu" else 1.0
    return time_full_batch(batching, (start.sample_type, start.sample), start.batch_size, fraction)


def _prepare_torch(start: Start) -> Place:
    """Import torch, set it up for one instance, and return where it computes, checked to be the right place."""
    # Late, so that its absence can be told.
    import torch  # noqa: PLC0415, TID251 - this is the worker process

    # A second thread would use a core that belongs to others, and is slower on a busy machine anyway.
    torch.set_num_threads(1)
    # Subnormal floats are computed some hundred times slower.
    torch.set_flush_denormal(True)
    place = choose_place(start, torch.cuda, build=str(torch.__version__))
    if place.device == "cpu":
        limit_memory(start.memory_mib)
    return place


class _Server:
    """Answers jobs, one at a time."""

    def __init__(self, model: Model, duty: DutyCycle, start: Start, output: BinaryIO) -> None:
        self._model = model
        self._duty = duty
        self._fetcher = Fetcher(start.input_roots)
        self._memory_mib = start.memory_mib
        self._output = output
        self._together = Together(model, self._fetcher.resolve, duty, self._outcome)

    def run(self, source: BinaryIO) -> None:
        """Answer until the source ends."""
        while isinstance(asked := read_to_worker(source), Job | Ping):
            if isinstance(asked, Ping):
                _send(self._output, Pong())
            elif not asked.following:
                _send(self._output, self._outcome(asked))
            elif len(jobs := _with_following(asked, source)) == 1 + asked.following:
                for outcome in self._together.outcomes(jobs):
                    _send(self._output, outcome)

    def _outcome(self, job: Job) -> Result | Refused | Exhausted:
        try:
            return self._answer(job)
        except InvalidInputError as exc:
            return Refused(number=job.number, reason=str(exc))
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            reason = f"out of memory, the instance has {self._memory_mib} MiB: {first_line(exc)}"
        gc.collect()
        return Exhausted(number=job.number, reason=reason)

    def _answer(self, job: Job) -> Result:
        """Do one job. The answer leaves only after the wait, so that a small slice is slow for whoever asks.

        Decoding is the host's work and as fast on a small slice as on a large one; only inference is held back.
        """
        cpu_0 = time.thread_time()
        prepared = self._model.prepare(*self._fetcher.resolve(job.content_type, job.payload))
        cpu_1, wall_1 = time.thread_time(), time.monotonic()
        raw = self._model.infer(prepared)
        cpu_2, wall_2 = time.thread_time(), time.monotonic()
        content_type, payload = self._model.render(raw)
        cpu_3, wall_3 = time.thread_time(), time.monotonic()
        self._duty.throttle(cpu_s=cpu_2 - cpu_1, elapsed_s=wall_2 - wall_1)
        return Result(
            number=job.number,
            content_type=content_type,
            payload=payload,
            cpu_s=cpu_3 - cpu_0,
            instance_s=wall_2 - wall_1 + time.monotonic() - wall_3,
        )


def _with_following(first: Job, source: BinaryIO) -> list[Job]:
    """Read the rest of a batch; it is shorter than announced only if the source has ended."""
    jobs = [first]
    while len(jobs) <= first.following and isinstance(job := read_to_worker(source), Job):
        jobs.append(job)
    return jobs


def _send(output: BinaryIO, frame: FromWorker) -> None:
    output.write(encode(frame))
    output.flush()


def _claim_stdout() -> BinaryIO:
    """Keep stdout for frames and send what anybody prints to stderr, where it harms nothing."""
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return frames


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends; elsewhere than on Linux the end of the input must do.

    SIGINT is the agent's to handle: it drains, and stops its workers afterwards.
    """
    if ask := end_with_parent(signal.SIGKILL):
        ask()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
