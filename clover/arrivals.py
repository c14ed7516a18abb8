"""Reads files of arrivals that the user names."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TextIO

from clover.core.arrival_trace import ArrivalTrace, read_arrivals
from clover.errors import TraceError


def load_arrivals(path: Path) -> ArrivalTrace:
    """Read a trace of arrivals from a CSV file, compressed or not (`.gz`).

    Raises:
        TraceError: It cannot be read, or a row of it cannot be right; the message names the line.
    """
    try:
        # A file from Windows may begin with a byte order mark.
        with _opened(path) as lines:
            return read_arrivals(lines, name=path.stem)
    except UnicodeDecodeError as error:
        raise TraceError(f"arrivals {path}: not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"arrivals {path}: {getattr(error, 'strerror', None) or error}") from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
