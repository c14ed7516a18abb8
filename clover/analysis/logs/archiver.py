"""Archives the feeds of a deployment: reads on behind a position of its own, and says what it missed.

It reads with plain XREAD, not with a consumer group: the server keeps nothing for it, a slow archive holds nobody up,
and the position lies in the same file as the rows that belong to it. The price is that a bounded stream may be trimmed
before it was read; the server's own count of entries tells that, and the archive states it as a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from clover.analysis.logs.files import ArchiveFiles, ArchiveWriteError
from clover.analysis.logs.frames import polars, to_parquet
from clover.analysis.logs.manifest import FeedPosition, Gap
from clover.analysis.logs.rows import rows_of
from clover.analysis.logs.tables import TABLES
from clover.bus.messages import RequestLog
from clover.bus.port import Bus
from clover.bus.repeats import Repeats
from clover.bus.values import Entry, Feed, FeedExtent, entry_order
from clover.errors import BusUnavailableError, ConfigurationError

_log = logging.getLogger("clover.archive")

#: Most entries of each feed in one read; an entry may hold 500 requests.
_COUNT = 200
#: Between two reads of a busy deployment, so that many entries are one write.
_PAUSE_S = 0.25
_BLOCK_S = 1.0
_RETRY_S = 1.0
#: After it was asked to stop it reads what there is for so long.
DRAIN_S = 30.0


class Archiver:
    """Reads feeds into an archive until it is stopped, then what is left.

    Args:
        bus: Of the deployment.
        files: Opened archive.
        now_ms: Wall time.
        after: Where a new archive begins; without it with the oldest entries that are kept.
        pause_s, block_s: Between two reads, and of one.
        aside: Runs what takes long beside the event loop.
    """

    def __init__(
        self,
        bus: Bus,
        files: ArchiveFiles,
        now_ms: Callable[[], float],
        *,
        after: Mapping[Feed, str] | None = None,
        pause_s: float = _PAUSE_S,
        block_s: float = _BLOCK_S,
        aside: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._bus = bus
        self._files = files
        self._now_ms = now_ms
        self._pause_s = pause_s
        self._block_s = block_s
        self._aside = aside
        self._told = ""
        for feed in Feed:
            begin = (after or {}).get(feed, "")
            position = FeedPosition(cursor=begin or "0-0", after=begin)
            files.manifest.feeds.setdefault(feed.value, position)
        files.commit(now_ms())

    async def run(self, stop: asyncio.Event) -> None:
        """Archive until `stop`, then read to the end and close the files.

        Raises:
            ArchiveWriteError: It was stopped while nothing could be written.
        """
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._convert_until(over), name="convert")
            try:
                await self._until(stop)
                caught_up = await self._drain()
            finally:
                over.set()
        await self._close(caught_up=caught_up)

    async def _until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            wait_s = self._pause_s
            try:
                await self.read(block_s=self._block_s)
                self._tell("")
            except (BusUnavailableError, ArchiveWriteError) as error:
                self._tell(f"{error}; trying again")
                wait_s = _RETRY_S
            await _set_within(stop, wait_s)

    async def _drain(self) -> bool:
        """Read what there is by now, as far as the server answers; return whether that was all."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while await self.read(block_s=0.0):
                    continue
        except (BusUnavailableError, TimeoutError):
            return False
        return True

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._told:
            _log.warning("%s", trouble)
        self._told = trouble

    # --- one round

    async def read(self, *, block_s: float) -> int:
        """Read once from every feed and let it count; return how many entries there were.

        Raises:
            ArchiveWriteError: The rows could not be written; nothing of this round counts.
            BusUnavailableError: Likewise.
        """
        manifest = self._files.manifest
        for feed in Feed:
            self._note_gap(feed, manifest.feeds[feed.value], await self._bus.extent(feed))
        cursors = {feed: manifest.feeds[feed.value].cursor for feed in Feed}
        entries = await self._bus.follow(cursors, block_s=block_s, count=_COUNT)
        try:
            self._take(entries)
        except ArchiveWriteError:
            self._files.rollback()
            raise
        return len(entries)

    def _take(self, entries: Sequence[Entry]) -> None:
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        repeats = Repeats(self._files.manifest.batches)
        for entry in entries:
            if isinstance(entry.message, RequestLog) and repeats.seen(entry.message):
                continue
            for table, row in rows_of(entry.id, entry.message):
                rows[table].append(row)
        self._files.append(rows)
        self._files.manifest.batches = repeats.first_ids
        for entry in entries:
            position = self._files.manifest.feeds[entry.feed.value]
            position.cursor = entry.id
            position.first_id = position.first_id or entry.id
            position.entries += 1
            position.counted = None if position.counted is None else position.counted + 1
        for table in list(self._files.full()):
            self._files.close_segment(table)
        self._files.commit(self._now_ms())

    def _note_gap(self, feed: Feed, position: FeedPosition, extent: FeedExtent) -> None:
        """Compare our count of entries with the server's where the two can be compared.

        They can where the cursor lies before the oldest entry kept (whatever is between is gone), and at the end.
        """
        if self._has_lost_data(position, extent):
            self._gap(feed, position, "", None, "the server has lost data, or is another one")
            if entry_order(extent.last_id) < entry_order(position.cursor):
                # What it has up to here was there before; to read it again would make rows twice.
                position.cursor = extent.last_id
            position.counted = None
        gone = extent.added - extent.length
        behind = entry_order(position.cursor) < entry_order(extent.first_id)
        if behind:
            self._compare(feed, position, gone, extent.first_id)
        elif position.cursor == extent.last_id:
            self._compare(feed, position, extent.added, "")

    @staticmethod
    def _has_lost_data(position: FeedPosition, extent: FeedExtent) -> bool:
        ends_before = entry_order(extent.last_id) < entry_order(position.cursor)
        return ends_before or extent.added < (position.counted or 0)

    def _compare(self, feed: Feed, position: FeedPosition, server: int, before_id: str) -> None:
        counted = 0 if position.counted is None and position.cursor == "0-0" else position.counted
        if counted is not None and server > counted:
            self._gap(feed, position, before_id, server - counted, "trimmed or removed before they were read")
        position.counted = server

    def _gap(self, feed: Feed, position: FeedPosition, before_id: str, entries: int | None, reason: str) -> None:
        gap = Gap(
            feed=feed.value,
            after_id=position.cursor,
            before_id=before_id,
            entries=entries,
            reason=reason,
            noticed_at_ms=self._now_ms(),
        )
        self._files.manifest.gaps.append(gap)
        _log.warning("%s: %s entries after %s: %s", feed.value, entries or "an unknown number of", gap.after_id, reason)

    # --- closing

    async def _convert_until(self, over: asyncio.Event) -> None:
        """Convert what is closed now and then; a file that was begun is finished first."""
        while not over.is_set():
            await _set_within(over, _BLOCK_S)
            await self._convert()

    async def _convert(self) -> None:
        """Turn closed files into Parquet; without polars, or room, they stay what they are."""
        for table, number in self._files.to_convert():
            length = next(s.bytes for s in self._files.manifest.tables[table] if s.number == number)
            try:
                polars()
                await self._aside(partial(to_parquet, self._files.folder, table, number, length))
                self._files.converted(table, number, self._now_ms())
            except (ConfigurationError, OSError) as error:
                self._tell(f"files of the archive stay JSON lines: {error}")
                return

    async def _close(self, *, caught_up: bool) -> None:
        for table in TABLES:
            self._files.close_segment(table)
        await self._convert()
        self._files.manifest.state = "closed"
        self._files.manifest.caught_up = caught_up
        self._files.commit(self._now_ms(), sync=True)


async def _set_within(event: asyncio.Event, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return
