"""Writing and finding run folders; nothing that exists is ever overwritten."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson

from clover.runs.record import RunError, RunRecord, State, decode_record, encode_record

RECORD = "run.json"
SUMMARY = "summary.json"
REQUESTS = "requests.jsonl"
LATENCIES = "latency.hgrm"
FIGURES = "figures"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HINT = "choose another place with --runs-dir or CLOVER_RUNS"


def default_runs_folder(state_folder: Path) -> Path:
    """Return `CLOVER_RUNS`, or `runs` in the state folder, which is no checkout's."""
    override = os.environ.get("CLOVER_RUNS")
    return Path(override) if override else state_folder / "runs"


def iso(ms: float) -> str:
    """Return milliseconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(ms / 1e3, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def run_name(command: str, at_ms: float, token: str) -> str:
    """Return the name of a run that is not given one: when, what, and a token of its own; sorts by time."""
    return f"{datetime.fromtimestamp(at_ms / 1e3, UTC):%Y%m%d-%H%M%S}-{command}-{token}"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a file system may refuse (no right, no space, no folder) into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise RunError(f"run folder {path}: {error.strerror or error}", hint=_HINT) from error


class RunFolder:
    """A run folder that is being written.

    Args:
        path: Of the folder, which is there.
        record: What `run.json` holds.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record

    @classmethod
    def create(cls, runs: Path, record: RunRecord) -> RunFolder:
        """Make the folder of a run and its `run.json`.

        Raises:
            RunError: The name is taken or no name, or the folder cannot be written.
        """
        if not _NAME.fullmatch(record.run):
            raise RunError(f"run name {record.run!r}: expected letters, digits, '.', '_' and '-', at most 100")
        path = runs / record.run
        with explained(path):
            runs.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                raise RunError(
                    f"run folder {path}: exists already, and is not overwritten", hint="choose another --run-name"
                ) from None
            write_new(path / RECORD, encode_record(record))
        return cls(path, record)

    def write_json(self, name: str, value: dict[str, Any]) -> Path:
        """Write an object as indented JSON to a new file of the folder."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        return self.write(name, orjson.dumps(value, option=options))

    def write(self, name: str, data: bytes) -> Path:
        """Write bytes to a new file of the folder; raises RunError if there is one."""
        path = self.path / name
        with explained(path):
            write_new(path, data)
        return path

    def describe(self, **changes: Any) -> None:
        """Change fields of `run.json`; a reader sees the old file or the new one."""
        self.record = msgspec.structs.replace(self.record, **changes)
        beside = self.path / f".{RECORD}.new"
        with explained(self.path / RECORD):
            beside.write_bytes(encode_record(self.record))
            beside.replace(self.path / RECORD)

    def finish(self, state: State, at_ms: float, *, reason: str = "") -> None:
        """Say how the run ended."""
        self.describe(state=state, reason=reason, ended_ms=round(at_ms), ended_at=iso(at_ms))


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not be there yet, down to the disk; raises OSError, and leaves no half file."""
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A run folder that is there.

    Attributes:
        path: Of the folder.
        record: Its `run.json`.
        abandoned: It is open, but its process is gone.
    """

    path: Path
    record: RunRecord
    abandoned: bool

    @property
    def state(self) -> str:
        """`open`, `finished`, `failed`, `interrupted` or `abandoned`."""
        return "abandoned" if self.abandoned else self.record.state

    def summary(self) -> dict[str, Any] | None:
        """Return `summary.json`, None if the run has none (yet)."""
        path = self.path / SUMMARY
        with explained(path):
            try:
                return orjson.loads(path.read_bytes())
            except FileNotFoundError:
                return None
            except orjson.JSONDecodeError as error:
                raise RunError(f"{path}: {error}") from error


#: Tells whether a process lives: pid and start time.
Alive = Callable[[int, str], bool]


def read_run(path: Path, alive: Alive) -> Found:
    """Read one run folder; raises RunError if it is none."""
    with explained(path):
        try:
            data = (path / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{path}: no run folder ({RECORD} is missing)", hint="`clover runs ls` lists them") from None
    record = decode_record(data, str(path / RECORD))
    open_ = record.state == "open"
    # A run on another host cannot be told from one whose process is gone.
    return Found(path=path, record=record, abandoned=open_ and not alive(record.pid, record.pid_started))


def list_runs(runs: Path, alive: Alive) -> tuple[list[Found], list[str]]:
    """Return the runs of a folder, oldest first, and one line for each that cannot be read."""
    found: list[Found] = []
    troubles: list[str] = []
    with explained(runs):
        paths = sorted(path.parent for path in runs.glob(f"*/{RECORD}"))
    for path in paths:
        try:
            found.append(read_run(path, alive))
        except RunError as error:
            troubles.append(str(error))
    return sorted(found, key=lambda run: (run.record.started_ms, run.record.run)), troubles


def find_run(runs: Path, name: str, alive: Alive) -> Found:
    """Return a run by the path of its folder, its name, the beginning of its name, or `last`.

    Raises:
        RunError: There is none, or several.
    """
    if os.sep in name or (Path(name) / RECORD).is_file():
        return read_run(Path(name), alive)
    if (runs / name / RECORD).is_file():
        return read_run(runs / name, alive)
    found, _ = list_runs(runs, alive)
    if name == "last" and found:
        return found[-1]
    if name == "last":
        raise RunError(
            f"there are no runs in {runs} yet", hint="`clover up` makes one, and so does `clover experiment`"
        )
    matching = [run for run in found if run.record.run.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(run.record.run for run in matching[:5])
        raise RunError(f"run {name!r}: {len(matching)} runs begin so: {names}")
    raise RunError(f"run {name!r}: there is none of this name in {runs}", hint="`clover runs ls` lists them")
