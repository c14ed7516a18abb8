"""The process of one instance, `python -m clover.serving.torch_worker NAME`; see `clover.serving.process`.

It reads frames (`clover.serving.framing`) from stdin and writes frames to what was its stdout; whatever
libraries print goes to stderr. It ends at the end of its input, and on Linux with its parent in any case. An
error nobody foresaw ends it with a traceback on stderr, which the parent keeps: a process in an unknown state
must not answer.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from clover.parent import end_with_parent
from clover.serving.availability import MODELS_HINT
from clover.serving.device import Place, choose_place
from clover.serving.duty import DutyCycle
from clover.serving.framing import (
    Failed,
    FromWorker,
    Job,
    Ready,
    Refused,
    Result,
    Start,
    encode,
    read_to_worker,
)
from clover.serving.port import InvalidInputError, ServingError

if TYPE_CHECKING:
    from collections.abc import Callable


#: Module that serves each application.
_FAMILIES: Final = MappingProxyType({"efficientnet_lite": "clover.serving.families.efficientnet_lite"})


class Model(Protocol):
    """What a family's `load` returns; a prepared input and a raw result are its own business."""

    def prepare(self, content_type: str, payload: bytes) -> Any:
        """Decode an input (the host's part); `InvalidInputError` if that is impossible."""
        ...

    def infer(self, prepared: Any) -> Any:
        """Compute (the instance's part, which is held back to its share)."""
        ...

    def render(self, raw: Any) -> tuple[str, bytes]:
        """Return content type and bytes of a result."""
        ...

    def warm_up(self) -> None:
        """Make the first request as fast as the others."""
        ...


def main() -> int:
    """Serve until the input ends; return the exit code."""
    output = _claim_stdout()
    _die_with_parent()
    start = read_to_worker(sys.stdin.buffer)
    if not isinstance(start, Start):
        return 0 if start is None else 1
    began = time.monotonic()
    try:
        model, place = _load(start)
    except ServingError as exc:
        _send(output, Failed(reason=str(exc), hint=exc.hint))
        return 1
    loaded = time.monotonic()
    model.warm_up()
    warm_up_s = time.monotonic() - loaded
    _send(output, Ready(load_s=loaded - began, warm_up_s=warm_up_s, fallback=place.fallback))
    # A MIG device is a slice already; only a core has to be made look like one.
    fraction = start.fraction if place.device == "cpu" else 1.0
    _serve(model, DutyCycle(fraction), sys.stdin.buffer, output)
    return 0


def _load(start: Start) -> tuple[Model, Place]:
    """Import torch and the family, and load the variant; `ServingError` says what is missing."""
    family = _FAMILIES.get(start.application)
    if family is None:
        raise ServingError(f"there is no real model of the application {start.application!r}")
    try:
        # Late, so that its absence can be told.
        import torch  # noqa: PLC0415, TID251 - this is the worker process

        # A second thread would use a core that belongs to others, and is slower on a busy machine anyway.
        torch.set_num_threads(1)
        # Subnormal floats are computed some hundred times slower.
        torch.set_flush_denormal(True)
        load: Callable[..., Model] = importlib.import_module(family).load
    except ImportError as exc:
        raise ServingError(f"real models cannot be served here: {exc}", hint=MODELS_HINT) from exc
    place = choose_place(start, torch.cuda, build=str(torch.__version__))
    weights_dir = Path(start.weights_dir) if start.weights_dir else None
    return load(start.variant, weights_dir=weights_dir, device=place.device), place


def _serve(model: Model, duty: DutyCycle, source: BinaryIO, output: BinaryIO) -> None:
    """Answer jobs until the source ends."""
    while isinstance(job := read_to_worker(source), Job):
        _send(output, _answer(model, duty, job))


def _answer(model: Model, duty: DutyCycle, job: Job) -> Result | Refused:
    """Do one job. The answer leaves only after the wait, so that a small slice is slow for whoever asks.

    Decoding is the host's work and as fast on a small slice as on a large one; only inference is held back.
    """
    cpu_0 = time.thread_time()
    try:
        prepared = model.prepare(job.content_type, job.payload)
    except InvalidInputError as exc:
        return Refused(number=job.number, reason=str(exc))
    cpu_1, wall_1 = time.thread_time(), time.monotonic()
    content_type, payload = model.render(model.infer(prepared))
    cpu_2, wall_2 = time.thread_time(), time.monotonic()
    duty.throttle(cpu_s=cpu_2 - cpu_1, elapsed_s=wall_2 - wall_1)
    return Result(number=job.number, content_type=content_type, payload=payload, cpu_s=cpu_2 - cpu_0)


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
