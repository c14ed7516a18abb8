"""One GPU to test against, simulated or behind the fake driver, with the same ways to play what happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from nvml_fake import AMPERE, HOPPER, FakeNvml

from mig.device import Gpu, MigMode
from mig.nvml import NvmlDriver
from mig.patience import Patience
from mig.profiles import GpuModel
from mig.simulated import SimulatedGpu

ON = MigMode(current=True, pending=True)
OFF = MigMode(current=False, pending=False)

#: How long a destroy is tried on these boards, in their own time.
PATIENCE = Patience(total_s=5.0)


class Player(Protocol):
    """What no program can ask of a driver."""

    def use(self, instance_id: int, pid: int, seconds: float | None = None) -> None:
        """Have a process use an instance, for ever or for a time."""
        ...

    def leave(self, instance_id: int) -> None:
        """End that process."""
        ...

    def defer_mode(self) -> None:
        """Have each change of mode wait for a reset."""
        ...

    def reset(self) -> None:
        """Reset the GPU."""
        ...

    def lose(self) -> None:
        """Have the GPU fall off the bus."""
        ...


@dataclass(frozen=True)
class Board:
    """A GPU and what plays it."""

    gpu: Gpu
    play: Player


class SimulatedPlayer:
    """Plays a simulated GPU."""

    def __init__(self) -> None:
        self.gpu: SimulatedGpu
        self._until: dict[int, float] = {}
        self._now_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self._now_s += seconds
        for instance_id in [each for each, until in self._until.items() if self._now_s >= until]:
            self.leave(instance_id)
        await asyncio.sleep(0)

    def use(self, instance_id: int, pid: int, seconds: float | None = None) -> None:
        self.gpu.busy[instance_id] = pid
        if seconds is not None:
            self._until[instance_id] = self._now_s + seconds

    def leave(self, instance_id: int) -> None:
        self.gpu.busy.pop(instance_id, None)
        self._until.pop(instance_id, None)

    def defer_mode(self) -> None:
        self.gpu.defers_mode = True

    def reset(self) -> None:
        self.gpu.reset()

    def lose(self) -> None:
        self.gpu.lost = True


class FakePlayer:
    """Plays the first GPU of the fake driver."""

    def __init__(self, fake: FakeNvml) -> None:
        self._fake = fake

    def use(self, instance_id: int, pid: int, seconds: float | None = None) -> None:
        self._fake.use(0, instance_id, pid=pid, seconds=seconds)

    def leave(self, instance_id: int) -> None:
        self._fake.leave(0, instance_id)

    def defer_mode(self) -> None:
        self._fake.set_activation(0, "after_reset")

    def reset(self) -> None:
        self._fake.reset_gpu(0)

    def lose(self) -> None:
        self._fake.set_lost(0)


class OpenBoard(Protocol):
    """Opens a board; `resets` says that it resets itself when its mode changes."""

    def __call__(
        self, model: GpuModel, *, mode: MigMode = ON, resets: bool = False, seed: int = 1, fresh_uuids: bool = False
    ) -> AbstractAsyncContextManager[Board]: ...


@asynccontextmanager
async def simulated_board(
    model: GpuModel, *, mode: MigMode = ON, resets: bool = False, seed: int = 1, fresh_uuids: bool = False
) -> AsyncIterator[Board]:
    """A simulated GPU."""
    play = SimulatedPlayer()
    play.gpu = SimulatedGpu(
        model,
        0,
        seed=seed,
        sleep=play.sleep,
        uuid_policy="fresh" if fresh_uuids else "stable",
        mode=mode,
        resets_for_mode=resets,
        patience=PATIENCE,
    )
    yield Board(play.gpu, play)


def fake_board(make: Callable[[int, bool], FakeNvml]) -> OpenBoard:
    """A GPU behind the fake driver that `make` makes from a seed and a UUID policy."""

    @asynccontextmanager
    async def opened(
        model: GpuModel, *, mode: MigMode = ON, resets: bool = False, seed: int = 1, fresh_uuids: bool = False
    ) -> AsyncIterator[Board]:
        fake = make(seed, fresh_uuids)
        fake.add_gpu(model, mode=mode.current, architecture=AMPERE if resets else HOPPER)
        with fake.loaded():
            async with NvmlDriver(patience=PATIENCE, sleep=fake.sleep) as driver:
                (gpu,) = await driver.gpus()
                yield Board(gpu, FakePlayer(fake))

    return opened


def run(body: Callable[[], Awaitable[None]]) -> None:
    """Run a test's body in an event loop."""

    async def main() -> None:
        await body()

    asyncio.run(main())
