"""Readings of one source over time: the newest, those of a moment, and a file that outlives the process."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from clover.carbon.port import SourceTraits
from clover.core.carbon import CarbonIntensity

#: Same-hour persistence looks one day back, its error band needs some days of pairs.
KEEP_S = 9 * 86_400.0


class Readings:
    """Readings ordered by the beginning of their interval; a later one for the same interval replaces the earlier."""

    def __init__(self) -> None:
        self._by_start: dict[float, CarbonIntensity] = {}
        self._starts: list[float] = []

    def add(self, readings: Iterable[CarbonIntensity], *, now_s: float, keep_s: float = KEEP_S) -> None:
        """Take readings in and forget those that are too old."""
        self._by_start |= {r.from_s: r for r in readings}
        self._by_start = {at: r for at, r in self._by_start.items() if at >= now_s - keep_s}
        self._starts = sorted(self._by_start)

    def at(self, at_s: float) -> CarbonIntensity | None:
        """Return the reading whose interval holds a moment."""
        found = self.newest(at_s)
        return found if found is not None and at_s < found.to_s else None

    def newest(self, at_s: float) -> CarbonIntensity | None:
        """Return the reading that began last at a moment."""
        index = bisect_right(self._starts, at_s)
        return self._by_start[self._starts[index - 1]] if index else None

    def between(self, from_s: float, to_s: float) -> list[CarbonIntensity]:
        """Return those that began after `from_s` and until `to_s`."""
        starts = self._starts[bisect_right(self._starts, from_s) : bisect_right(self._starts, to_s)]
        return [self._by_start[start] for start in starts]

    def all(self) -> list[CarbonIntensity]:
        """Return all, oldest first."""
        return [self._by_start[start] for start in self._starts]


class _File(msgspec.Struct):
    past: list[CarbonIntensity]
    ahead: list[CarbonIntensity]
    issued_s: float | None


class ReadingCache:
    """A file with the readings of one source and zone, so that a restart during an outage has something to go by."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, traits: SourceTraits) -> tuple[list[CarbonIntensity], list[CarbonIntensity], float | None]:
        """Return past, forecast and when that was issued; nothing if there is no file or it is of another source."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError):
            return [], [], None

        def own(r: CarbonIntensity) -> bool:
            return (r.zone, r.kind, r.factor, r.source) == (traits.zone, traits.kind, traits.factor, traits.name)

        return [r for r in found.past if own(r)], [r for r in found.ahead if own(r)], found.issued_s

    def save(self, past: Sequence[CarbonIntensity], ahead: Sequence[CarbonIntensity], issued_s: float | None) -> None:
        """Write the file whole or not at all; a full disk costs the cache, not the run."""
        partial = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(_File(list(past), list(ahead), issued_s)))
            os.replace(partial, self._path)  # noqa: PTH105 - the same as Path.replace, on one line with its file
        except OSError:
            return
