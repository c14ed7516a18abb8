"""Real GPUs of a node agent: opened, locked, brought in line with the record, and fenced where they cannot be used.

What was created here and still lives is taken over: the first target keeps what it may. A GPU that is not in MIG mode,
holds instances of somebody else, is managed by another process or is another board is left alone and told of; the agent
serves on the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clover.errors import NodeError
from mig.errors import ForeignInstanceError, MigError
from mig.managed import ManagedGpu
from mig.store import FileStore, RecordStore

if TYPE_CHECKING:
    from mig.device import Gpu
    from mig.patience import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that was found when the GPUs were opened, for the event stream.

    Attributes:
        kind: `gpu.fenced`, `gpu.adopted` or `gpu.note`.
        gpu: Number of the GPU.
        reason: One line for people.
    """

    kind: str
    gpu: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedGpus:
    """The GPUs that can be used, locked, and what was found."""

    gpus: tuple[ManagedGpu, ...]
    notices: tuple[Notice, ...]


@asynccontextmanager
async def driver_gpus(helper: Path | None, *, patience: Patience | None = None) -> AsyncIterator[Sequence[Gpu]]:
    """Open the GPUs of this host: by the driver, or by a helper that has the rights for it.

    Args:
        helper: Socket of a helper; None: the driver itself.
        patience: How long the driver is asked again to destroy an instance in use; a helper has its own.

    Raises:
        MigError: There is no driver, or the helper cannot be reached.
    """
    if helper is not None:
        from mig.helper_client import HelperDriver  # noqa: PLC0415 - needed for this backend only

        async with HelperDriver(helper) as remote:
            yield await remote.gpus()
    else:
        from mig.nvml import NvmlDriver  # noqa: PLC0415 - needed for this backend only

        async with NvmlDriver(patience=patience) as driver:
            yield await driver.gpus()


@asynccontextmanager
async def node_gpus(
    helper: Path | None,
    *,
    board: str,
    most: int | None = None,
    store: RecordStore | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[OpenedGpus]:
    """Open and lock the GPUs that a node agent can use.

    Args:
        helper: Socket of a helper; None: the driver itself.
        board: Name of the board that they must be.
        most: Use at most so many, the first that can be used.
        store: Where records and locks are; None: the host's.
        patience: See `driver_gpus`.

    Raises:
        NodeError: None of them can be used; the message says why, of each.
        MigError: There is no driver, or the helper cannot be reached.
    """
    records = store or FileStore()
    async with driver_gpus(helper, patience=patience) as found:
        with ExitStack() as locks:
            usable: list[ManagedGpu] = []
            notices: list[Notice] = []
            for gpu in found:
                if len(usable) == most:
                    break
                try:
                    check_usable(gpu, board)
                    (await gpu.mode()).require_enabled(gpu.index)
                    usable.append(await _taken(gpu, records, locks, notices))
                except MigError as error:
                    notices.append(Notice(kind="gpu.fenced", gpu=gpu.index, reason=str(error)))
            if not usable:
                raise _none_usable(notices)
            yield OpenedGpus(gpus=tuple(usable), notices=tuple(notices))


def check_usable(gpu: Gpu, board: str) -> None:
    """Pass only if a GPU is of the board that the deployment plans for.

    Raises:
        MigError: It is not, or cannot be partitioned at all.
    """
    if gpu.model.name != board:
        raise MigError(
            f"GPU {gpu.index}: board {gpu.model.name}: expected {board}",
            hint=f"Start every agent with --gpu-model {gpu.model.name} if all GPUs are that.",
        )


async def _taken(gpu: Gpu, records: RecordStore, locks: ExitStack, notices: list[Notice]) -> ManagedGpu:
    """Lock a GPU and settle what an earlier manager left: its own is kept, what is half made goes."""
    with ExitStack() as lock:
        managed = lock.enter_context(ManagedGpu(gpu, records))
        living = await managed.reconcile()
        foreign = managed.record.foreign(living)
        if foreign:
            raise ForeignInstanceError(
                f"GPU {gpu.index}: instances {', '.join(map(str, foreign))} were not created here: expected none",
                instance_ids=[each.id for each in foreign],
            )
        for instance in living:
            if not instance.is_whole:
                await managed.destroy(instance.id)
        managed.end_apply()
        locks.push(lock.pop_all())
    kept = [str(instance) for instance in living if instance.is_whole]
    if kept:
        notices.append(
            Notice(kind="gpu.adopted", gpu=gpu.index, reason=f"instances {', '.join(kept)} of an earlier run")
        )
    notices.extend(Notice(kind="gpu.note", gpu=gpu.index, reason=note) for note in gpu.notes)
    return managed


async def count_usable(helper: Path | None, board: str) -> int:
    """Count the GPUs that node agents of this host could use, without locking any.

    Raises:
        NodeError: There is none.
        MigError: There is no driver, or the helper cannot be reached.
    """
    fenced: list[Notice] = []
    usable = 0
    async with driver_gpus(helper) as found:
        for gpu in found:
            try:
                check_usable(gpu, board)
                (await gpu.mode()).require_enabled(gpu.index)
                usable += 1
            except MigError as error:
                fenced.append(Notice(kind="gpu.fenced", gpu=gpu.index, reason=str(error)))
    if not usable:
        raise _none_usable(fenced)
    return usable


def _none_usable(notices: Sequence[Notice]) -> NodeError:
    why = "; ".join(notice.reason for notice in notices if notice.kind == "gpu.fenced") or "there is none"
    return NodeError(
        f"no GPU of this node can be used: {why}",
        hint="`clover mig status` shows them; `clover mig enable` and `clover mig reset` prepare them.",
    )
