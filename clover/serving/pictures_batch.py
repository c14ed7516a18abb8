"""Several pictures in one payload: a MessagePack array of byte strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from clover.serving.port import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Content type of such a payload.
BATCH: Final = "application/vnd.clover.pictures+msgpack"

#: Most pictures in one request.
MAX_PICTURES: Final = 64

_DECODER: Final = msgspec.msgpack.Decoder(list[bytes])


def pack(pictures: Sequence[bytes]) -> bytes:
    """Return the payload of a batch."""
    return msgspec.msgpack.encode(list(pictures))


def unpack(payload: bytes) -> list[bytes]:
    """Return the pictures of a batch; `InvalidInputError` if it is malformed, empty or too long."""
    try:
        pictures = _DECODER.decode(payload)
    except msgspec.MsgspecError as exc:
        raise InvalidInputError(f"not a batch of pictures: {exc}") from exc
    if not 1 <= len(pictures) <= MAX_PICTURES:
        raise InvalidInputError(f"a batch of {len(pictures)} pictures: expected 1 to {MAX_PICTURES}")
    return pictures
