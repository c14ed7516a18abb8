"""Parts of the results: each is computed once, in some process, and kept as a file, so that a run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

Part = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]


def run_parts(
    folder: Path, parts: Mapping[str, Part], *, processes: int, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Return every part by name; those that are in the folder are read, the others computed and written there.

    Args:
        folder: Where parts are kept.
        parts: By name: a function of a module, and its arguments.
        processes: Side by side.
        tell: Hears the name of every part that becomes ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in parts if not _file(folder, name).is_file()]
    with ProcessPoolExecutor(max_workers=max(1, processes)) as pool:
        running = {pool.submit(parts[name][0], *parts[name][1]): name for name in missing}
        for done in as_completed(running):
            name = running[done]
            _write(_file(folder, name), done.result())
            tell(name)
    return read_parts(folder, list(parts))


def read_parts(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the parts that are there."""
    return {name: json.loads(_file(folder, name).read_text()) for name in names if _file(folder, name).is_file()}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _write(file: Path, value: dict[str, Any]) -> None:
    # A reader never sees half a file.
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(value))
    unfinished.replace(file)
