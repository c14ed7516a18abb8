"""What requests ask about: the samples that ship, or the user's files, made up as the application wants them."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clover.errors import ConfigurationError
from clover.serving.framing import MAX_PAYLOAD_BYTES
from clover.serving.pictures_batch import BATCH, pack
from clover.serving.questions import sample_questions, squad_questions
from clover.serving.samples import load_input, sample_inputs

if TYPE_CHECKING:
    from clover.core.application import Application

#: Most pictures that are taken from a folder, and most bytes of them.
MAX_PICTURES, MAX_BYTES = 1000, 500_000_000

_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})


def inputs_for(application: Application, path: Path | None = None) -> list[tuple[str, bytes]]:
    """Return (content type, payload) of requests to an application, to be used in turn.

    Args:
        application: Says whether it answers questions or looks at pictures, and at how many per request.
        path: A file in the format of SQuAD 2.0, or a folder of pictures; None takes the samples.

    Raises:
        ConfigurationError: The path does not hold such inputs, or the samples are not installed.
    """
    if application.input == "question":
        return squad_questions(path) if path else sample_questions()
    pictures = _folder(path) if path else [(sample.content_type, sample.payload) for sample in sample_inputs()]
    return pictures if application.request_items == 1 else _batches(pictures, application.request_items)


def batch_of(pictures: list[bytes]) -> tuple[str, bytes]:
    """Return content type and payload of several pictures; `ConfigurationError` if they are too large together."""
    payload = pack(pictures)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigurationError(
            f"{len(pictures)} pictures have {len(payload) / 2**20:.0f} MiB together, "
            f"a request may have {MAX_PAYLOAD_BYTES // 2**20} MiB"
        )
    return BATCH, payload


def _batches(pictures: list[tuple[str, bytes]], size: int) -> list[tuple[str, bytes]]:
    """Put pictures together, going round, until each has been the first of a request once."""
    endless = cycle(payload for _, payload in pictures)
    return [batch_of(list(islice(endless, size))) for _ in range(len(pictures))]


def _folder(path: Path) -> list[tuple[str, bytes]]:
    """Read the pictures of a folder in the order of their names, as many as the limits allow."""
    if not path.is_dir():
        raise ConfigurationError(f"{path}: expected a folder of pictures")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise ConfigurationError(f"{path} holds no pictures ({', '.join(sorted(_SUFFIXES))})")
    pictures: list[tuple[str, bytes]] = []
    left = MAX_BYTES
    for file in files[:MAX_PICTURES]:
        picture = load_input(str(file))
        left -= len(picture[1])
        if left < 0:
            break
        pictures.append(picture)
    return pictures
