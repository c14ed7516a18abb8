"""Inside a worker: several jobs answered with one inference, each with its own outcome. Knows nothing of torch."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clover.serving.framing import Exhausted, Job, Refused, Result
from clover.serving.memory import is_out_of_memory
from clover.serving.port import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clover.serving.duty import DutyCycle
    from clover.serving.family import BatchingModel, Model

    Outcome = Result | Refused | Exhausted


@dataclass(frozen=True, slots=True)
class _Prepared:
    job: Job
    value: Any
    cpu_s: float


class Together:
    """Answers jobs together.

    A bad input fails its own job. If the rest cannot be computed together (memory runs out, or the model refuses an
    input only then), each is tried alone.

    Args:
        model: What computes; `require_batches` has seen it before.
        fetch: Content type and payload of a job to those of its input (`clover.serving.references`).
        duty: Holds inference back.
        alone: Answers one job.
    """

    def __init__(
        self,
        model: Model,
        fetch: Callable[[str, bytes], tuple[str, bytes]],
        duty: DutyCycle,
        alone: Callable[[Job], Outcome],
    ) -> None:
        self._model = model
        self._fetch = fetch
        self._duty = duty
        self._alone = alone

    def outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Return an outcome for each job, in their order.

        The processor time of the inference is divided evenly: with padding or without, each job had the same part in
        it. Decoding and rendering are each job's own. The sum is what the batch took.
        """
        done: dict[int, Outcome] = {}
        prepared: list[_Prepared] = []
        for job in jobs:
            found = self._prepare(job)
            if isinstance(found, Refused):
                done[job.number] = found
            elif found is not None:
                prepared.append(found)
        together = self._compute(prepared) if len(prepared) > 1 else None
        for outcome in together or ():
            done[outcome.number] = outcome
        for job in jobs:
            if job.number not in done:
                done[job.number] = self._alone(job)
        return [done[job.number] for job in jobs]

    def _prepare(self, job: Job) -> _Prepared | Refused | None:
        """Decode one input; None if memory ran out, so that it is tried alone."""
        began = time.thread_time()
        try:
            value = self._model.prepare(*self._fetch(job.content_type, job.payload))
        except InvalidInputError as exc:
            return Refused(number=job.number, reason=str(exc))
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            return None
        return _Prepared(job, value, time.thread_time() - began)

    def _compute(self, prepared: Sequence[_Prepared]) -> list[Outcome] | None:
        """Infer and render; None if that cannot be done together."""
        cpu_0, wall_0 = time.thread_time(), time.monotonic()
        raws = self._infer([one.value for one in prepared])
        cpu_s, elapsed_s = time.thread_time() - cpu_0, time.monotonic() - wall_0
        if raws is None:
            # What was computed in vain is owed all the same.
            self._duty.throttle(cpu_s=cpu_s, elapsed_s=elapsed_s)
            gc.collect()
            return None
        rendered = [self._render(one, raw) for one, raw in zip(prepared, raws, strict=True)]
        wall_1 = time.monotonic()
        self._duty.throttle(cpu_s=cpu_s, elapsed_s=elapsed_s)
        instance_s = elapsed_s + time.monotonic() - wall_1
        share_s = cpu_s / len(prepared)
        return [make(share_s, instance_s) for make in rendered]

    def _infer(self, values: list[Any]) -> Sequence[Any] | None:
        model: Any = self._model
        try:
            return model.infer_batch(values)
        except InvalidInputError:
            return None
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            return None

    def _render(self, one: _Prepared, raw: Any) -> Callable[[float, float], Outcome]:
        """Return what makes the outcome when the inference's share of the processor and its time are known."""
        began = time.thread_time()
        try:
            content_type, payload = self._model.render(raw)
        except InvalidInputError as exc:
            refused = Refused(number=one.job.number, reason=str(exc))
            return lambda _share_s, _instance_s: refused
        own_s = one.cpu_s + time.thread_time() - began
        return lambda share_s, instance_s: Result(
            number=one.job.number,
            content_type=content_type,
            payload=payload,
            cpu_s=own_s + share_s,
            instance_s=instance_s,
        )


def time_full_batch(model: BatchingModel, sample: tuple[str, bytes], size: int, fraction: float) -> float | None:
    """Return milliseconds of a full batch on a slice that has `fraction` of a core; None if it does not fit in memory.

    The second of two is timed: the first finds memory and kernels.
    """
    batch_s = 0.0
    try:
        for _ in range(2):
            began = time.monotonic()
            prepared = [model.prepare(*sample) for _ in range(size)]
            cpu_0, wall_0 = time.thread_time(), time.monotonic()
            raws = model.infer_batch(prepared)
            held_back_s = (time.thread_time() - cpu_0) / fraction - (time.monotonic() - wall_0)
            for raw in raws:
                model.render(raw)
            batch_s = time.monotonic() - began + max(0.0, held_back_s)
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        gc.collect()
        return None
    return batch_s * 1e3
