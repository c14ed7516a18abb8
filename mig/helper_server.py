"""A small process with rights that changes GPUs for processes without: `clover mig helper`.

It does what `mig.device.Gpu` can and nothing else, for GPUs, profiles and users that it was started for. Which
instances a client may destroy is the client's record to know (`mig.managed`); the helper sees to it that there is one
writer of a GPU at a time. Whatever a client sends or fails to send, the helper answers with an error or closes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mig.device import Gpu
from mig.errors import DriverTimeoutError, MigError
from mig.helper_policy import HelperPolicy, Peer, Writers, peer_of, unknown_gpu
from mig.helper_protocol import (
    AnyRequest,
    Create,
    Destroy,
    GpuDescription,
    GpuRequest,
    HelperError,
    ListGpus,
    ReadDevices,
    ReadEnergy,
    ReadHolders,
    ReadInstances,
    ReadMode,
    SetMode,
    decode_request,
    encode_failure,
    encode_value,
    failure_of,
    wire_instance,
)
from mig.helper_socket import Client, HelperLimits, close, listen
from mig.placement import Placement

_log = logging.getLogger(__name__)

_CHANGES: Final = (SetMode, Create, Destroy)


class HelperServer:
    """Serves GPUs on a Unix socket.

    Args:
        gpus: What may be used; no other GPU is even named.
        policy: By whom and how.
        limits: How much.
    """

    def __init__(self, gpus: Sequence[Gpu], policy: HelperPolicy, limits: HelperLimits | None = None) -> None:
        self._gpus = {gpu.index: gpu for gpu in gpus}
        self._policy = policy
        self._limits = limits or HelperLimits()
        self._writers = Writers()
        self._conversations: set[asyncio.Task[None]] = set()
        self._served: set[Client] = set()

    async def serve(self, path: Path, stop: asyncio.Event, *, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until `stop` is set.

        Args:
            path: Of the socket; one that nobody listens on any more is replaced.
            stop: Ends it, with what is under way.
            ready: Called once clients can connect.

        Raises:
            HelperError: The socket cannot be made, or another helper listens on it.
        """
        listener = listen(path)
        try:
            ready()
            async with asyncio.TaskGroup() as group:
                accepting = group.create_task(self._accept(listener, group), name="helper")
                await stop.wait()
                for task in (accepting, *self._conversations):
                    task.cancel()
        finally:
            close(listener, path)

    async def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, or the client is gone already; the pause keeps the first from spinning.
                _log.warning("a client could not be let in: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._conversations) > 2 * self._limits.connections:
                # So many who are not served at all; there is not even an answer for more.
                connection.close()
                continue
            connection.setblocking(False)
            task = group.create_task(self._converse(connection), name="helper client")
            self._conversations.add(task)
            task.add_done_callback(self._conversations.discard)
            # One that is cancelled before it begins has nobody else to close its socket.
            task.add_done_callback(lambda _task, connection=connection: connection.close())

    async def _converse(self, connection: socket.socket) -> None:
        """Answer one client until it goes or does what it must not."""
        try:
            peer = peer_of(connection)
            client = await Client.over(connection, self._limits)
        except OSError:
            connection.close()
            return
        try:
            await self._answer_all(client, peer)
        except MigError as error:
            with suppress(OSError, TimeoutError):
                await client.send(encode_failure(error))
        except (OSError, TimeoutError):
            pass
        finally:
            self._writers.release(client)
            await client.close()

    async def _answer_all(self, client: Client, peer: Peer) -> None:
        refusal = self._refusal(peer)
        if refusal is not None:
            # Heard out first: a client whose request meets a closed socket would not see why.
            await client.next_line(self._limits.request_s)
            raise refusal
        self._served.add(client)
        try:
            while (line := await client.next_line(self._limits.idle_s)) is not None:
                answer = await client.while_there(self._answer(line, client, peer))
                if answer is None:
                    return
                await client.send(answer)
        finally:
            self._served.discard(client)

    def _refusal(self, peer: Peer) -> MigError | None:
        try:
            self._policy.check_peer(peer)
        except MigError as error:
            return error
        if len(self._served) >= self._limits.connections:
            return HelperError(f"{len(self._served)} clients are connected: expected fewer", hint="Try again later.")
        return None

    async def _answer(self, line: bytes, client: Client, peer: Peer) -> bytes:
        """Do what a line asks for; whatever is wrong with it becomes the answer."""
        try:
            async with asyncio.timeout(self._limits.work_s):
                return encode_value(await self._do(decode_request(line), client, peer))
        except MigError as error:
            return encode_failure(error)
        except TimeoutError:
            message = f"the driver did not answer the helper within {self._limits.work_s:g} s"
            return encode_failure(DriverTimeoutError(message))
        except Exception:  # noqa: BLE001 - told in the log and to the client
            # A bug must not take the helper from everybody else.
            _log.exception("request of user %d, process %d", peer.uid, peer.pid)
            return encode_failure(HelperError("the helper has a bug: see its log"))

    async def _do(self, request: AnyRequest, client: Client, peer: Peer) -> object:
        if isinstance(request, ListGpus):
            return [_describe(gpu) for gpu in self._gpus.values()]
        gpu = self._gpus.get(request.gpu)
        if gpu is None:
            raise unknown_gpu(request.gpu, sorted(self._gpus))
        if isinstance(request, _CHANGES):
            self._writers.claim(request.gpu, peer, client)
            _log.info("user %d, process %d: %s", peer.uid, peer.pid, request)
        return await self._do_on(gpu, request)

    async def _do_on(self, gpu: Gpu, request: GpuRequest) -> object:
        match request:
            case SetMode():
                self._policy.check_mode()
                return await gpu.set_mode(enabled=request.enabled, allow_reset=request.allow_reset)
            case Create():
                return await self._create(gpu, request)
            case Destroy():
                return await self._destroy(gpu, request)
            case _:
                return await _read(gpu, request)

    async def _create(self, gpu: Gpu, request: Create) -> object:
        profile = gpu.model.profile(request.profile)
        self._policy.check_profile(profile)
        placement = Placement(start=request.start, size=request.size)
        return wire_instance(await gpu.create(profile, placement))

    async def _destroy(self, gpu: Gpu, request: Destroy) -> None:
        if self._policy.profiles is not None:
            for instance in await gpu.instances():
                if instance.id == request.instance_id:
                    self._policy.check_profile(instance.profile)
        await gpu.destroy(request.instance_id)


async def _read(gpu: Gpu, request: ReadMode | ReadInstances | ReadDevices | ReadHolders | ReadEnergy) -> object:
    match request:
        case ReadMode():
            return await gpu.mode()
        case ReadInstances():
            return [wire_instance(instance) for instance in await gpu.instances()]
        case ReadDevices():
            return await gpu.devices()
        case ReadHolders():
            return await gpu.holders(request.instance_id)
        case ReadEnergy():
            return await gpu.energy_mj()


def _describe(gpu: Gpu) -> GpuDescription:
    try:
        model, failure = gpu.model, None
    except MigError as error:
        model, failure = None, failure_of(error)
    return GpuDescription(
        index=gpu.index, uuid=gpu.uuid, title=gpu.title, notes=gpu.notes, model=model, model_failure=failure
    )
