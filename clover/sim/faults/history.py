"""What happened in a run, one record a line: the only thing that the checker reads.

Every process appends to a file of its own, each record in one write before (an invocation) or after (its outcome) the
fact, so that a killed process leaves at most one broken line, its last. Times are wall time of the machine in ms since
the Unix epoch, which no injected clock jump moves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from clover.core.outcome import Outcome, ProducerOutcome
from clover.errors import ConfigurationError


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """One fact; `at_ms` is when it was written down."""

    at_ms: float


class Invoked(Record, frozen=True, tag="invoke"):
    """A producer is about to ask for admission for the first time; times are those of a clock that never jumped."""

    id: str
    producer: str
    due_ms: float
    deadline_ms: float


class AdmissionEnded(Record, frozen=True, tag="admission"):
    """How one attempt at admission ended: `ok` (in the queue), `fail` (refused: full), `unknown` (the call failed)."""

    id: str
    result: Literal["ok", "fail", "unknown"]


class ReplySeen(Record, frozen=True, tag="reply"):
    """A reply entry, read by its `producer` or by the `observer` who reads all reply streams independently."""

    id: str
    by: Literal["producer", "observer"]
    outcome: Outcome
    node: str = ""


class Ended(Record, frozen=True, tag="end"):
    """The outcome that the producer recorded, and its cause if that is not an answer."""

    id: str
    outcome: ProducerOutcome
    reason: str = ""


class Finished(Record, frozen=True, tag="finish"):
    """A node finished an execution; `first` if the fence let its reply through."""

    id: str
    node: str
    first: bool


class Fault(Record, frozen=True, tag="fault"):
    """Something was broken on purpose from `at_ms` to `until_ms`.

    Attributes:
        kind: `A`: nothing may be lost. `B`: losses are allowed if they are detected and told with their cause.
        name: Such as `server.kill` or `carbon.kill`.
        target: What it was done to.
    """

    until_ms: float
    kind: Literal["A", "B"]
    name: str
    target: str = ""


class ProcessEnded(Record, frozen=True, tag="gone"):
    """A process of the deployment ended; `expected` if a fault or the end of the run did it."""

    name: str
    expected: bool
    detail: str = ""


class Sample(Record, frozen=True, tag="sample"):
    """State of the server and of the processes; `final` after the load has ended and all is quiet.

    Attributes:
        waiting, pending: Of the request streams.
        lengths: Entries by stream.
        bounds: Most entries that each stream may have.
        memory_bytes: Of the server without its bounded streams, and resident of each process, by name.
    """

    waiting: int
    pending: int
    lengths: Mapping[str, int]
    bounds: Mapping[str, int]
    memory_bytes: Mapping[str, int]
    final: bool = False


class Planted(Record, frozen=True, tag="planted"):
    """A malformed entry was written on purpose."""

    stream: str
    entry_id: str


class Buried(Record, frozen=True, tag="buried"):
    """An entry of the dead stream."""

    stream: str
    entry_id: str
    reason: str


class Removed(Record, frozen=True, tag="removed"):
    """Unfinished requests were taken out of the stream behind the system's back."""

    ids: Sequence[str]


class LeaseTaken(Record, frozen=True, tag="lease"):
    """A controller took or extended the lease, until `until_ms` at the latest."""

    holder: str
    until_ms: float


class Acted(Record, frozen=True, tag="act"):
    """A controller published a plan under an epoch, between `asked_ms` and `at_ms`."""

    asked_ms: float
    holder: str
    epoch: int


class Applied(Record, frozen=True, tag="applied"):
    """One life (boot) of a node took over a target."""

    node: str
    epoch: int


class CarbonSeen(Record, frozen=True, tag="carbon"):
    """What somebody who asks for the intensity is told; it is said to hold until `to_ms`."""

    to_ms: float
    status: str
    source: str
    fallback_level: int


class TotalsSeen(Record, frozen=True, tag="totals"):
    """The ledger as published."""

    energy_j: float
    footprint_g: float


AnyRecord = (
    Invoked
    | AdmissionEnded
    | ReplySeen
    | Ended
    | Finished
    | Fault
    | ProcessEnded
    | Sample
    | Planted
    | Buried
    | Removed
    | LeaseTaken
    | Acted
    | Applied
    | CarbonSeen
    | TotalsSeen
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyRecord).decode
_SUFFIX = ".history.jsonl"


def now_ms() -> float:
    """Return the wall time of records in ms."""
    return time.time() * 1e3


class History(Protocol):
    """Where records go."""

    def write(self, records: Iterable[AnyRecord]) -> None:
        """Append records; they are there when this returns."""
        ...


class HistoryList:
    """A history in memory."""

    def __init__(self) -> None:
        self.records: list[AnyRecord] = []

    def write(self, records: Iterable[AnyRecord]) -> None:
        """Append records."""
        self.records += records


class HistoryFile:
    """The history of one process, in one file of a folder that all processes of a run share."""

    def __init__(self, folder: Path, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(folder / f"{name}-{os.getpid()}{_SUFFIX}", flags, 0o600)

    def write(self, records: Iterable[AnyRecord]) -> None:
        """Append records in one write, which survives a kill of this process right after it."""
        lines = b"".join(_encode(record) + b"\n" for record in records)
        while lines:
            lines = lines[os.write(self._file, lines) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_history(folder: Path) -> list[AnyRecord]:
    """Return the records of all processes of a run in order of time.

    Raises:
        ConfigurationError: A line other than a killed process's last cannot be read.
    """
    records: list[AnyRecord] = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        *lines, tail = path.read_bytes().split(b"\n")
        # `tail` is empty, or what a killed process did not finish writing.
        del tail
        for number, line in enumerate(lines, 1):
            try:
                records.append(_decode(line))
            except msgspec.MsgspecError as error:
                raise ConfigurationError(f"history {path.name}, line {number}: {error}") from error
    return sorted(records, key=lambda record: record.at_ms)
