"""What a node agent and its worker process say to each other, over the worker's stdin and stdout.

A frame is a length (4 bytes, big-endian) and that many bytes of MessagePack: one of the structs below, told
apart by its `type` field. Nothing is ever unpickled. A frame above the limit, or one that does not decode, is
a `FrameError`: after it the two sides no longer agree on where frames begin, so the only cure is a new
process.
"""

from __future__ import annotations

import asyncio
import struct
from typing import BinaryIO, Final

import msgspec

from clover.errors import CloverError
from clover.serving.recipe import Recipe

#: Largest input or result, bytes.
MAX_PAYLOAD_BYTES: Final = 32 * 2**20
#: Largest frame: a payload and room for the fields around it, bytes.
MAX_FRAME_BYTES: Final = MAX_PAYLOAD_BYTES + 64 * 2**10

_LENGTH: Final = struct.Struct(">I")


class FrameError(CloverError):
    """What came through the pipe is not a frame."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all frames."""


class Start(Frame, frozen=True, kw_only=True, tag="start"):
    """First frame to the worker: what to load, and on what.

    Attributes:
        recipe: The variant.
        fraction: Share of one core that inference may use on average, above 0 and at most 1.
        device: UUID of the MIG device to compute on; empty: on the CPU.
        memory_mib, multiprocessors: What that device must have; on the CPU the memory is a limit that the kernel
            enforces (Linux). 0 if it is not known.
        input_roots: Folders and URL prefixes below which inputs may be fetched that a request only refers to.
        cpus: Cores that the process may run on (Linux); empty: any.
        batch_size: Most jobs that will be asked for together; above 1 the family must be able to.
        sample_type, sample: Content type and bytes of an input to time a full batch with.
    """

    recipe: Recipe
    fraction: float
    device: str = ""
    memory_mib: int = 0
    multiprocessors: int = 0
    input_roots: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    batch_size: int = 1
    sample_type: str = ""
    sample: bytes = b""


class Job(Frame, frozen=True, kw_only=True, tag="job"):
    """One request to the worker; `number` comes back with the answer.

    `following` jobs more come right after it and are to be answered together with it, each with a frame of its own.
    """

    number: int
    content_type: str
    payload: bytes
    following: int = 0


class Ping(Frame, frozen=True, kw_only=True, tag="ping"):
    """Asks an idle worker for a sign of life, which it gives at once."""


class Pong(Frame, frozen=True, kw_only=True, tag="pong"):
    """The sign of life of an idle worker."""


class Ready(Frame, frozen=True, kw_only=True, tag="ready"):
    """The worker can serve.

    Attributes:
        load_s: Seconds from the start frame to a loaded model, the import of torch included.
        warm_up_s: Seconds of the first inferences.
        fallback: Why it computes on the CPU although a MIG device was meant; empty otherwise.
        device: What it runs on, such as `cpu` or `NVIDIA A100-SXM4-40GB MIG 3g.20gb`.
        memory_mib: Memory that the worker takes with its model loaded, MiB; 0 if unknown.
        versions: Libraries that do the work, by name.
        batch_ms: Time of a full batch, measured with the sample and held back like any other; None if there are no
            batches, or if one does not fit into the memory.
    """

    load_s: float
    warm_up_s: float
    fallback: str = ""
    device: str = ""
    memory_mib: float = 0.0
    versions: dict[str, str] = {}
    batch_ms: float | None = None


class Failed(Frame, frozen=True, kw_only=True, tag="failed"):
    """The worker cannot serve and ends itself; `reason` and `hint` are for people."""

    reason: str
    hint: str = ""


class Result(Frame, frozen=True, kw_only=True, tag="result"):
    """Answer to a job.

    Attributes:
        number: Of the job.
        content_type, payload: The result.
        cpu_s: Processor time, decoding included.
        instance_s: Time on the instance, its being held back included; the rest of the service is the host's.
    """

    number: int
    content_type: str
    payload: bytes
    cpu_s: float
    instance_s: float = 0.0


class Refused(Frame, frozen=True, kw_only=True, tag="refused"):
    """The input of a job cannot be used; the worker goes on."""

    number: int
    reason: str


class Exhausted(Frame, frozen=True, kw_only=True, tag="exhausted"):
    """A job did not fit into the instance's memory; it is failed, the worker goes on."""

    number: int
    reason: str


ToWorker = Start | Job | Ping
FromWorker = Ready | Failed | Pong | Result | Refused | Exhausted

_ENCODER: Final = msgspec.msgpack.Encoder()
_TO_WORKER: Final = msgspec.msgpack.Decoder(ToWorker)
_FROM_WORKER: Final = msgspec.msgpack.Decoder(FromWorker)


def encode(frame: ToWorker | FromWorker) -> bytes:
    """Return the bytes of one frame, length included; `FrameError` if it is too large."""
    body = _ENCODER.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


async def read_from_worker(stream: asyncio.StreamReader) -> FromWorker | None:
    """Read one frame of a worker.

    Returns:
        The frame, or None at the end of the stream, even in the middle of a frame: the worker died.

    Raises:
        FrameError: The stream does not hold frames.
    """
    try:
        length = _checked_length(await stream.readexactly(_LENGTH.size))
        body = await stream.readexactly(length)
    except asyncio.IncompleteReadError:
        return None
    try:
        return _FROM_WORKER.decode(body)
    except msgspec.MsgspecError as exc:
        raise FrameError(f"not a frame of a worker: {exc}") from exc


def read_to_worker(stream: BinaryIO) -> ToWorker | None:
    """Read one frame of the agent, inside the worker, blocking; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    length = _checked_length(head)
    body = stream.read(length)
    if len(body) < length:
        return None
    try:
        return _TO_WORKER.decode(body)
    except msgspec.MsgspecError as exc:
        raise FrameError(f"not a frame for a worker: {exc}") from exc


def _checked_length(head: bytes) -> int:
    """Return the length in a frame's head; `FrameError` above the limit."""
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is announced, above the limit of {MAX_FRAME_BYTES}")
    return length
