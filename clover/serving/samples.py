"""Inputs for real models: the photographs in scikit-image's wheel (not imported), or any picture file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from clover.errors import ConfigurationError
from clover.serving.availability import MODELS_HINT

#: Largest picture that is sent, bytes.
MAX_INPUT_BYTES: Final = 20_000_000

#: Sample pictures: name and file in `skimage/data`. All show something that has an ImageNet class.
SAMPLES: Final = MappingProxyType(
    {
        "chelsea": "chelsea.png",
        "coffee": "coffee.png",
        "camera": "camera.png",
        "rocket": "rocket.jpg",
        "motorcycle_left": "motorcycle_left.png",
    }
)

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A picture that can be sent as a request."""

    name: str
    content_type: str
    payload: bytes


def load_input(name_or_path: str) -> tuple[str, bytes]:
    """Return content type and bytes of a sample picture (by its name) or of a file (by its path).

    Raises:
        ConfigurationError: Neither a sample nor a readable picture of at most 20 MB, or samples are not
        installed.
    """
    path = _sample_path(name_or_path) if name_or_path in SAMPLES else Path(name_or_path)
    payload = _read(path, name_or_path)
    content_type = _content_type(payload)
    if content_type is None:
        raise ConfigurationError(f"{name_or_path} is not a PNG, JPEG, WebP, GIF or BMP picture")
    return content_type, payload


def sample_inputs() -> list[Sample]:
    """Return all sample pictures; `ConfigurationError` with the command to run if they are not installed."""
    loaded = [(name, *load_input(name)) for name in SAMPLES]
    return [Sample(name=name, content_type=kind, payload=payload) for name, kind, payload in loaded]


def _sample_path(name: str) -> Path:
    """Return where a sample lies, without importing scikit-image, which takes seconds."""
    found = importlib.util.find_spec("skimage")
    for folder in (found.submodule_search_locations or ()) if found else ():
        return Path(folder) / "data" / SAMPLES[name]
    raise ConfigurationError(
        f"the sample picture {name!r} needs scikit-image, which is not installed", hint=MODELS_HINT
    )


def _read(path: Path, shown: str) -> bytes:
    try:
        with path.open("rb") as file:
            payload = file.read(MAX_INPUT_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(
            f"{shown} cannot be read: {exc.strerror or exc}",
            hint=f"give the path of a picture, or one of the samples {', '.join(SAMPLES)}",
        ) from exc
    if len(payload) > MAX_INPUT_BYTES:
        raise ConfigurationError(f"{shown} is larger than {MAX_INPUT_BYTES // 10**6} MB")
    return payload


def _content_type(payload: bytes) -> str | None:
    """Tell a picture by its first bytes; the worker that decodes it finds out whether the rest is sound."""
    if payload.startswith(b"RIFF") and payload[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if payload.startswith(signature)), None)
