"""Real GPUs through NVIDIA's driver: the port `mig.device.Gpu`, with every call off the event loop.

    async with NvmlDriver() as driver:
        for gpu in await driver.gpus():
            print(gpu.index, gpu.title, await gpu.mode())

One thread of the process owns the driver's library, for all its GPUs; a second `NvmlDriver` of the same process is
refused while one is open. The session keeps the GPUs from being reset, so close it before a reset that a change of mode
waits for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mig.device import GpuInstance, Holder, MigDevice, MigMode
from mig.errors import DeviceBusyError, DriverError, MigError
from mig.holders import capability_files, holders, pids_with_open
from mig.nvml_binding import Nvml
from mig.nvml_discovery import discover
from mig.nvml_errors import translate
from mig.nvml_instances import Board
from mig.nvml_mode import change_mode, read_mode
from mig.nvml_values import Code, NvmlFailure
from mig.owner_thread import OwnerThread
from mig.patience import Patience, ask_until_free

if TYPE_CHECKING:
    from mig.device import Gpu
    from mig.placement import Placement
    from mig.profiles import GpuModel, Profile

ResultT = TypeVar("ResultT")
Sleep = Callable[[float], Awaitable[object]]

# The library is one per process whatever objects there are; this keeps it to one owner.
_OWNED = threading.Lock()


class NvmlGpu:
    """One real GPU; see `Gpu` for what the methods promise. Made by `NvmlDriver`."""

    def __init__(self, board: Board, thread: OwnerThread, *, patience: Patience, sleep: Sleep) -> None:
        self._board = board
        self._thread = thread
        self._patience = patience
        self._sleep = sleep
        self._uuid = board.nvml.uuid(board.gpu)
        self._title = board.nvml.name(board.gpu)

    @property
    def index(self) -> int:
        """Number of the GPU on its host, from 0."""
        return self._board.index

    @property
    def uuid(self) -> str:
        """Name of the whole GPU."""
        return self._uuid

    @property
    def title(self) -> str:
        """What the board calls itself."""
        return self._title

    @property
    def model(self) -> GpuModel:
        """The driver's own table of the board.

        Raises:
            MigNotSupportedError: It cannot be partitioned.
            PermissionDeniedError: This user may not read the table, and no bundled one fits the board.
        """
        return self._board.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the table and why."""
        return self._board.table.notes

    async def mode(self) -> MigMode:
        """Read whether it is in MIG mode."""
        return await self._run("reading its mode", lambda: read_mode(self._board))

    async def set_mode(self, *, enabled: bool, allow_reset: bool = False) -> MigMode:
        """Switch MIG mode; see the port. The driver's own report of the activation is checked and read back."""
        return await self._run(
            "changing its mode", lambda: change_mode(self._board, self._uuid, enabled=enabled, allow_reset=allow_reset)
        )

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read all living instances."""
        return await self._run("reading its instances", self._when_on(self._board.instances))

    async def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices as every user may."""
        return await self._run("reading its MIG devices", self._board.devices)

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance with its compute instance at an explicit place and return it as read back."""
        job = self._when_on(lambda: self._board.create(profile, placement))
        return await self._run(f"creating {profile.name}", job)

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance; one in use is asked again until patience is over."""
        job = self._when_on(lambda: self._board.destroy(instance_id))
        try:
            await ask_until_free(
                lambda: self._run(f"destroying instance {instance_id}", job), self._patience, self._sleep
            )
        except DeviceBusyError as error:
            raise await self._with_holders(instance_id, error) from error

    async def holders(self, instance_id: int) -> tuple[Holder, ...]:
        """Find the processes that use an instance: compute contexts and open capability files."""
        pids = await self._run("reading its users", lambda: self._board.processes(instance_id))
        minor = await self._run("reading its number", self._minor)
        files = await asyncio.to_thread(lambda: pids_with_open(capability_files(minor, instance_id)))
        return await asyncio.to_thread(holders, pids | files)

    async def energy_mj(self) -> int | None:
        """Read the energy counter of the whole GPU, mJ; None if it has none."""

        def read() -> int | None:
            try:
                return self._board.nvml.energy_mj(self._board.gpu)
            except NvmlFailure as failure:
                if failure.code == Code.NOT_SUPPORTED:
                    return None
                raise

        return await self._run("reading its energy", read)

    async def _with_holders(self, instance_id: int, error: DeviceBusyError) -> DeviceBusyError:
        with suppress(MigError):
            await self._run("restoring it", lambda: self._board.refill(instance_id))
        found: tuple[Holder, ...] = ()
        with suppress(MigError):
            found = await self.holders(instance_id)
        by = "process " + ", ".join(map(str, found)) if found else "a process that this user cannot see"
        return DeviceBusyError(
            f"GPU {self.index}: instance {instance_id} is in use by {by}, still after {self._patience.total_s:g} s: "
            "expected none",
            holders=found,
            hint=error.hint,
        )

    def _minor(self) -> int:
        return self._board.nvml.minor(self._board.gpu)

    def _when_on(self, job: Callable[[], ResultT]) -> Callable[[], ResultT]:
        """Say that MIG mode is off instead of what the driver says about that."""

        def checked() -> ResultT:
            mode = read_mode(self._board)
            if not mode.current:
                mode.require_enabled(self.index)
            return job()

        return checked

    async def _run(self, doing: str, job: Callable[[], ResultT]) -> ResultT:
        what = f"GPU {self.index}: {doing}"
        try:
            return await self._thread.run(what, job)
        except NvmlFailure as failure:
            raise translate(failure, what) from failure


class NvmlDriver:
    """The session with the driver, from entering (`async with`) to leaving.

    Args:
        call_timeout_s: How long one operation of the driver is waited for, s.
        patience: How long the destroy of an instance in use is tried again.
        sleep: Waits a number of seconds between such tries.
    """

    def __init__(
        self, *, call_timeout_s: float = 60.0, patience: Patience | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._call_timeout_s = call_timeout_s
        self._patience = patience or Patience(total_s=10.0)
        self._sleep = sleep
        self._nvml = Nvml()
        self._thread: OwnerThread | None = None
        self._failures: list[MigError] = []

    async def __aenter__(self) -> Self:
        """Start the thread and begin the session.

        Raises:
            NoDriverError: There is no driver.
            RuntimeError: The process has an open session already.
        """
        if not _OWNED.acquire(blocking=False):
            raise RuntimeError("a second NvmlDriver in one process: expected one at a time")
        self._thread = OwnerThread("nvml", timeout_s=self._call_timeout_s)
        try:
            await self._run("opening the driver", self._nvml.init)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the session and the thread; a driver that fails at that is left alone."""
        try:
            with suppress(MigError):
                await self._run("closing the driver", self._nvml.shutdown)
        finally:
            self._end()

    async def version(self) -> str:
        """Version of the driver."""
        return await self._run("reading its version", self._nvml.driver_version)

    async def gpus(self) -> tuple[NvmlGpu, ...]:
        """Read the GPUs of this host and their tables, ordered by index; those without MIG too.

        A GPU that does not answer is left out and named in `notes`.

        Raises:
            MigError: The driver fails, or none of the GPUs answers.
        """
        return await self._run("reading the GPUs", self._read_gpus)

    @property
    def notes(self) -> tuple[str, ...]:
        """Which GPUs were left out and why, a sentence each."""
        return tuple(map(str, self._failures))

    def _read_gpus(self) -> tuple[NvmlGpu, ...]:
        found: list[NvmlGpu] = []
        self._failures.clear()
        for index in range(self._nvml.count()):
            try:
                found.append(self._read_gpu(index))
            except NvmlFailure as failure:
                self._failures.append(translate(failure, f"GPU {index}: reading it"))
            except DriverError as error:
                self._failures.append(error)
        if self._failures and not found:
            raise self._failures[0]
        return tuple(found)

    def _read_gpu(self, index: int) -> NvmlGpu:
        gpu = self._nvml.gpu(index)
        board = Board(nvml=self._nvml, gpu=gpu, index=index, table=discover(self._nvml, gpu, index))
        return NvmlGpu(board, self._open_thread(), patience=self._patience, sleep=self._sleep)

    async def _run(self, doing: str, job: Callable[[], ResultT]) -> ResultT:
        try:
            return await self._open_thread().run(doing, job)
        except NvmlFailure as failure:
            raise translate(failure, doing) from failure

    def _open_thread(self) -> OwnerThread:
        if self._thread is None:
            raise RuntimeError("an NvmlDriver is used outside of its `async with` block")
        return self._thread

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None
            _OWNED.release()


if TYPE_CHECKING:
    # The type checker proves here that it fits the port.
    _real: type[Gpu] = NvmlGpu
