"""What an archive says about itself: how far each stream was read, which files hold what, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from clover.analysis.logs.tables import TABLES_VERSION
from clover.errors import ConfigurationError

FILE = "manifest.json"
SCHEMA = 1


class Segment(msgspec.Struct, kw_only=True):
    """One file of a table.

    Attributes:
        number: Counts from 1; names the file.
        format: `jsonl` while rows are added and until it is converted, then `parquet`.
        rows, bytes: That hold; of an open file what lies behind `bytes` does not count.
        first_id, last_id: Stream ids of its rows.
        closed: Whether rows are still added.
    """

    number: int
    format: Literal["jsonl", "parquet"] = "jsonl"
    rows: int = 0
    bytes: int = 0
    first_id: str = ""
    last_id: str = ""
    closed: bool = False

    @property
    def file(self) -> str:
        """Name of the file in the table's folder."""
        return f"{self.number:06d}.{self.format}"


class FeedPosition(msgspec.Struct, kw_only=True):
    """How far one stream was read.

    Attributes:
        cursor: Newest entry that was taken in.
        after: Entry behind which the archive was told to begin; empty for the oldest that was kept.
        first_id: Oldest one.
        entries: How many were taken in.
        counted: How many the server had added up to the cursor, by its own count.
    """

    cursor: str = "0-0"
    after: str = ""
    first_id: str = ""
    entries: int = 0
    counted: int | None = None


class Gap(msgspec.Struct, kw_only=True, frozen=True):
    """Entries that the archive does not have.

    Attributes:
        feed: Stream.
        after_id, before_id: Between which entries they were; `before_id` is empty if nothing followed yet.
        entries: How many; None if nobody can know.
        reason: Why, for people.
        noticed_at_ms: When it was noticed.
    """

    feed: str
    after_id: str
    before_id: str
    entries: int | None
    reason: str
    noticed_at_ms: float


class Manifest(msgspec.Struct, kw_only=True):
    """The whole archive.

    Attributes:
        schema: Version of this file's form.
        tables_version: Version of the tables (`clover.analysis.logs.tables`).
        deployment: What was archived.
        state: `open` while somebody adds to it (or died doing so), `closed` when it was ended in order.
        caught_up: Whether everything was read that the server had when it was closed.
        began_ms, written_ms: First and last time that it was written.
        feeds, tables, gaps: What it holds and what it misses.
    """

    deployment: str
    began_ms: float
    schema: int = SCHEMA
    tables_version: int = TABLES_VERSION
    state: Literal["open", "closed"] = "open"
    caught_up: bool = False
    written_ms: float = 0.0
    feeds: dict[str, FeedPosition] = msgspec.field(default_factory=dict[str, FeedPosition])
    tables: dict[str, list[Segment]] = msgspec.field(default_factory=dict[str, list[Segment]])
    gaps: list[Gap] = msgspec.field(default_factory=list[Gap])

    def rows(self, table: str) -> int:
        """Return how many rows a table has."""
        return sum(segment.rows for segment in self.tables.get(table, []))


class _Versions(msgspec.Struct):
    schema: int
    tables_version: int


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of an archive; None if there is none.

    Raises:
        ConfigurationError: It cannot be read, is damaged, or was written by a newer Clover.
    """
    path = folder / FILE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    try:
        versions = msgspec.json.decode(raw, type=_Versions)
        if versions.schema > SCHEMA or versions.tables_version > TABLES_VERSION:
            raise ConfigurationError(
                f"{path}: schema {versions.schema}, tables {versions.tables_version}; this version of Clover reads up "
                f"to schema {SCHEMA}, tables {TABLES_VERSION}",
                hint="Use the version of Clover that wrote it, or a newer one.",
            )
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not a manifest of an archive: {error}") from error
