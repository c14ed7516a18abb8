"""What commands print: results on standard output, talk on standard error."""

from __future__ import annotations

import sys
from typing import Any

import orjson


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object with its schema version on one line."""
    sys.stdout.write(orjson.dumps({"schema": 1, **value}, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Say something to the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def number(value: float | None, unit: str = "", digits: int = 1) -> str:
    """Format a figure that may be missing."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"
