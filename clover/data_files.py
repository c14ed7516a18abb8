"""Reads and decodes files, and turns everything that can be wrong with them into errors that name file and field."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from clover.errors import ConfigurationError

_T = TypeVar("_T")


def data_folder() -> Traversable:
    """Return the folder of the files that ship with Clover."""
    return resources.files("clover") / "data"


def read_text(path: Path, what: str) -> str:
    """Read a file that the user named; raises ConfigurationError with what it was to be."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigurationError(f"{what} {path}: {reason}") from error


def decode(text: str, where: str, kind: type[_T], decoder: Callable[..., Any]) -> _T:
    """Decode a text into a type; raises ConfigurationError with the place."""
    try:
        return decoder(text, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def build(where: str, make: Callable[[], _T]) -> _T:
    """Make something from decoded values; a ValueError becomes a ConfigurationError with the place."""
    try:
        return make()
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error
