"""GPUs that are changed by a helper with rights (`mig.helper_server`): the port, without rights of one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from mig.device import Gpu, GpuInstance, Holder, MigDevice, MigMode
from mig.errors import DriverTimeoutError, MigError, PartitionRejectedError
from mig.helper_protocol import (
    MAX_ANSWER_BYTES,
    AnyRequest,
    Create,
    Destroy,
    GpuDescription,
    HelperError,
    ListGpus,
    ReadDevices,
    ReadEnergy,
    ReadHolders,
    ReadInstances,
    ReadMode,
    SetMode,
    WireInstance,
    decode_answer,
    encode_request,
    error_of,
    instance_of,
)
from mig.placement import Placement
from mig.profiles import GpuModel, Profile

# A union is no class to the type checker, though the decoder takes it.
_MILLIJOULES: type[int | None] = cast("Any", int | None)

ValueT = TypeVar("ValueT")

#: Longer than the helper's own limit for one piece of work, so that its answer comes first.
_CALL_S = 150.0


class HelperDriver:
    """The GPUs that a helper serves, from entering (`async with`) to leaving.

    Args:
        path: The helper's socket.
        call_timeout_s: How long one answer may take, s.
    """

    def __init__(self, path: Path, *, call_timeout_s: float = _CALL_S) -> None:
        self._path = path
        self._call_timeout_s = call_timeout_s
        self._connections: list[_Connection] = []

    async def __aenter__(self) -> Self:
        """Do nothing yet; `gpus` connects."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection, and so let others be writers."""
        for connection in self._connections:
            connection.close()

    async def gpus(self) -> tuple[HelperGpu, ...]:
        """Ask which GPUs there are.

        Raises:
            HelperError: The helper cannot be reached.
            PermissionDeniedError: It does not serve this user.
        """
        found = await self._connect().ask(ListGpus(), tuple[GpuDescription, ...])
        # A connection each, so that work on several GPUs goes on at the same time.
        return tuple(HelperGpu(each, self._connect()) for each in found)

    def _connect(self) -> _Connection:
        connection = _Connection(self._path, self._call_timeout_s)
        self._connections.append(connection)
        return connection


class _Connection:
    """One request at a time; made when it is needed, and again after it broke."""

    def __init__(self, path: Path, call_timeout_s: float) -> None:
        self.path = path
        self._call_timeout_s = call_timeout_s
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: AnyRequest, kind: type[ValueT]) -> ValueT:
        """Send a request and read its answer.

        Raises:
            MigError: What the helper answered; or it cannot be reached, or does not answer in time.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(self._call_timeout_s):
                    line = await self._exchange(encode_request(request))
            except TimeoutError as error:
                self.close()
                raise DriverTimeoutError(
                    f"helper {self.path} did not answer within {self._call_timeout_s:g} s"
                ) from error
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                self.close()
                raise self._unreachable(error) from error
            except BaseException:
                # The answer to this request must not be taken for the answer to the next.
                self.close()
                raise
        return decode_answer(line, kind)

    def close(self) -> None:
        """Close; the next request connects again."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, line: bytes) -> bytes:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self.path), limit=MAX_ANSWER_BYTES)
        reader, writer = self._streams
        writer.write(line)
        await writer.drain()
        return await reader.readuntil(b"\n")

    def _unreachable(self, error: Exception) -> HelperError:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else "it closed the connection"
        return HelperError(
            f"helper {self.path}: {why}: expected `clover mig helper` to listen there",
            hint="Start it as root: `clover mig helper --socket PATH --user NAME`.",
        )


class HelperGpu:
    """One GPU behind a helper; see `Gpu` for what the methods promise.

    Beside that, every method raises `HelperError` if the helper cannot be reached, and `PermissionDeniedError` for what
    the helper was not started for; methods that change something raise `GpuLockedError` if another client is the writer
    of the GPU.
    """

    def __init__(self, description: GpuDescription, connection: _Connection) -> None:
        self._description = description
        self._connection = connection

    @property
    def index(self) -> int:
        """Number of the GPU on its host."""
        return self._description.index

    @property
    def uuid(self) -> str:
        """Name of the whole GPU."""
        return self._description.uuid

    @property
    def title(self) -> str:
        """What the board calls itself."""
        return self._description.title

    @property
    def model(self) -> GpuModel:
        """Its board, as the helper knows it."""
        if self._description.model is None:
            failure = self._description.model_failure
            raise error_of(failure) if failure is not None else MigError(f"GPU {self.index}: its table is not known")
        return self._description.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it, and that a helper is between."""
        return (*self._description.notes, f"through the helper {self._connection.path}")

    async def mode(self) -> MigMode:
        """Read whether it is in MIG mode."""
        return await self._connection.ask(ReadMode(gpu=self.index), MigMode)

    async def set_mode(self, *, enabled: bool, allow_reset: bool = False) -> MigMode:
        """Switch MIG mode."""
        return await self._connection.ask(SetMode(gpu=self.index, enabled=enabled, allow_reset=allow_reset), MigMode)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """Read all living instances."""
        found = await self._connection.ask(ReadInstances(gpu=self.index), tuple[WireInstance, ...])
        return tuple(instance_of(each, self.model) for each in found)

    async def devices(self) -> tuple[MigDevice, ...]:
        """Read the MIG devices."""
        return await self._connection.ask(ReadDevices(gpu=self.index), tuple[MigDevice, ...])

    async def create(self, profile: Profile, placement: Placement) -> GpuInstance:
        """Create an instance."""
        # The helper knows profiles by name, so one of another board must be told apart here.
        if profile not in self.model.profiles:
            raise PartitionRejectedError(
                f"GPU {self.index}: profile {profile.name} (id {profile.nvml_id}): expected one of {self.model.name}"
            )
        request = Create(gpu=self.index, profile=profile.name, start=placement.start, size=placement.size)
        return instance_of(await self._connection.ask(request, WireInstance), self.model)

    async def destroy(self, instance_id: int) -> None:
        """Destroy an instance."""
        await self._connection.ask(Destroy(gpu=self.index, instance_id=instance_id), type(None))

    async def holders(self, instance_id: int) -> tuple[Holder, ...]:
        """Find the processes that use an instance; the helper's rights let it see those of all users."""
        return await self._connection.ask(ReadHolders(gpu=self.index, instance_id=instance_id), tuple[Holder, ...])

    async def energy_mj(self) -> int | None:
        """Read the energy counter of the whole GPU."""
        return await self._connection.ask(ReadEnergy(gpu=self.index), _MILLIJOULES)


if TYPE_CHECKING:
    # The type checker proves here that it fits the port.
    _remote: type[Gpu] = HelperGpu
