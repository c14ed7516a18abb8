"""What one agent can do wrong: die at a named point, take deliveries twice or reordered, ask twice, misread time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any

from clover.bus.messages import Request
from clover.bus.port import Bus
from clover.bus.values import NO_TIERS, Admission, Claimed, Delivery
from clover.errors import ConfigurationError
from clover.sim.faults.recording import Interposed

#: Where an agent can be told to die: before and after each of these calls of the bus. After `pull` and `claim` only
#: when they brought something, so that there is something to lose.
CRASH_CALLS = ("admit", "pull", "finish", "keep_alive", "claim", "own_pending", "replies", "publish_telemetry")
CRASH_POINTS = tuple(f"{call}.{when}" for call in CRASH_CALLS for when in ("before", "after"))


def kill_this_process() -> None:
    """Die as by `kill -9`: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


class CrashingBus(Interposed):
    """Ends the process at a crash point once it is armed.

    Args:
        inner: The bus.
        die: What dying is.
    """

    def __init__(self, inner: Bus, *, die: Callable[[], None] = kill_this_process) -> None:
        super().__init__(inner)
        self._die = die
        self._armed = ""

    def arm(self, point: str) -> None:
        """Die the next time that this point is passed.

        Raises:
            ConfigurationError: There is no such point.
        """
        if point not in CRASH_POINTS:
            raise ConfigurationError(f"crash point {point!r}: expected one of {', '.join(CRASH_POINTS)}")
        self._armed = point

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)
        return self._guarded(name, call) if name in CRASH_CALLS else call

    def _guarded(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            self._pass(f"{name}.before")
            answer = await call(*args, **kwargs)
            brought = answer.deliveries if isinstance(answer, Claimed) else answer
            if brought or name not in {"pull", "claim"}:
                self._pass(f"{name}.after")
            return answer

        return guarded

    def _pass(self, point: str) -> None:
        if point == self._armed:
            self._armed = ""
            self._die()


class MisdeliveringBus(Interposed):
    """Hands some deliveries out again later, in another order, as a server that failed over may; asks twice, too.

    Args:
        inner: The bus.
        rng: Decides which.
        share: Of deliveries that come twice and of admissions that are sent twice, 0 to 1.
    """

    def __init__(self, inner: Bus, rng: Random, *, share: float) -> None:
        super().__init__(inner)
        self._rng = rng
        self._share = share
        self._again: list[Delivery] = []

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        """See `clover.bus.port.Bus`; the answers are those to the first time."""
        answers = await self._inner.admit(requests, bound=bound)
        if self._rng.random() < self._share:
            admitted = [
                r
                for r, answer in zip(requests, answers, strict=True)
                if answer in {Admission.ADMITTED, Admission.DUPLICATE}
            ]
            await self._inner.admit(self._rng.sample(admitted, len(admitted)), bound=bound)
        return answers

    async def pull(
        self, consumer: str, *, count: int, block_s: float, tiers: Mapping[int, int] = NO_TIERS
    ) -> list[Delivery]:
        """See `clover.bus.port.Bus`."""
        if self._again and self._rng.random() < 0.1:
            again, self._again = self._again[:count], self._again[count:]
            return again
        taken = await self._inner.pull(consumer, count=count, block_s=block_s, tiers=tiers)
        self._again += [one for one in taken if self._rng.random() < self._share]
        self._rng.shuffle(taken)
        return taken


class JumpingTime:
    """The machine's wall time as one process misreads it."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    def jump(self, seconds: float) -> None:
        """Set the wall time this far from the truth."""
        self._offset_s = seconds

    def __call__(self) -> float:
        """Return seconds since the Unix epoch, as misread."""
        return time.time() + self._offset_s
