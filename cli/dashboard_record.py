"""Recordings of what a dashboard sees, a JSON object per line, and their replay at any speed.

The first line says what it is. Each other line has `at_ms` (when it was received) and either `t` and `d`, a message as
on the wire (docs/wire.md), or `value` (`plan`, `queue`, `agents`, `override`): what was asked for rather than followed.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import orjson

from clover.analysis.view import DeploymentView
from clover.bus.codec import decode, encode
from clover.bus.envelope import VERSION
from clover.bus.messages import (
    IntensityForecast,
    IntensityReading,
    LedgerReading,
    Message,
    NodeTelemetry,
    Override,
    PlanRecord,
)
from clover.bus.values import QueueStatus
from clover.errors import ConfigurationError, MessageRejectedError

_WHAT = "clover dashboard recording"
#: A recording ends by itself before it fills a disk.
MOST_BYTES = 512 << 20
_LAST_MESSAGES = (NodeTelemetry, IntensityReading, IntensityForecast, LedgerReading)


def _message_line(message: Message, now_ms: float) -> dict[str, Any]:
    kind, header = encode(message)
    return {"at_ms": now_ms, "t": kind, "d": orjson.Fragment(header)}


def _value_line(name: str, value: Any, now_ms: float) -> dict[str, Any]:
    return {"at_ms": now_ms, "value": name, "d": msgspec.to_builtins(value)}


class Recorder:
    """Writes what comes into a file while it is on.

    Args:
        deployment: For the first line and the file's name.
        folder: Where recordings go.
    """

    def __init__(self, deployment: str, folder: Path) -> None:
        self._deployment = deployment
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._path = folder
        self._bytes = 0
        #: Last values, which a recording begins with.
        self._last: dict[tuple[str, str], tuple[Any, float]] = {}

    @property
    def recording(self) -> bool:
        """Whether it is on."""
        return self._file is not None

    def toggle(self) -> str:
        """Begin or end; return what to say."""
        if self._file is not None:
            self.close()
            return f"recorded {self._path} ({self._bytes / 1e6:.1f} MB); clover dashboard --replay {self._path}"
        self._path = self._folder / f"clover-{self._deployment}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            return f"cannot record into {self._path}: {error.strerror}"
        self._bytes = 0
        self._write({"what": _WHAT, "schema": 1, "deployment": self._deployment})
        for (name, _), (last, now_ms) in self._last.items():
            self._write(
                _message_line(last, now_ms) if isinstance(last, _LAST_MESSAGES) else _value_line(name, last, now_ms)
            )
        return f"recording into {self._path}; r ends it"

    def close(self) -> None:
        """End it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self, message: Message, *, now_ms: float) -> None:
        """Take in a message that was followed."""
        if isinstance(message, _LAST_MESSAGES):
            self._last[type(message).__name__, getattr(message, "node", "")] = message, now_ms
        if self._file is not None:
            self._write(_message_line(message, now_ms))

    def value(self, name: str, value: Any, *, now_ms: float) -> None:
        """Take in a value that was asked for; one that is as before is not written again."""
        before = self._last.get((name, ""))
        self._last[name, ""] = value, now_ms
        if self._file is not None and (before is None or before[0] != value):
            self._write(_value_line(name, value, now_ms))

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        text = orjson.dumps(line) + b"\n"
        self._bytes += len(text)
        try:
            self._file.write(text)
        except OSError:
            self.close()
        if self._bytes > MOST_BYTES:
            self.close()


class Replay:
    """Feeds a view from a recording, so many times as fast as it was.

    Args:
        path: The recording; `.gz` is unpacked.
        speed: Seconds of the recording per second.

    Raises:
        ConfigurationError: The file is not a recording.
    """

    def __init__(self, path: Path, speed: float) -> None:
        self._path = path
        self._speed = speed
        self._lines = _lines(path)
        head = next(self._lines, {})
        if head.get("what") != _WHAT:
            raise ConfigurationError(
                f"{path}: not a recording of the dashboard", hint="key r of `clover dashboard` makes one"
            )
        self.deployment = str(head.get("deployment", "clover"))
        self.view = DeploymentView()
        self._at_ms = 0.0
        self._moved_s: float | None = None
        #: Whether all of it was shown.
        self.ended = False

    def now_ms(self) -> float:
        """Return the moment of the recording that is shown."""
        if self.ended or self._moved_s is None:
            return self._at_ms
        return self._at_ms + 1e3 * self._speed * (time.monotonic() - self._moved_s)

    @property
    def label(self) -> str:
        """Say for the header that this is the past."""
        return "REPLAY ended" if self.ended else f"REPLAY {self._speed:g}x"

    def all(self) -> None:
        """Take in everything at once."""
        for line in self._lines:
            self._take(line)
        self.ended = True

    async def play(self, stop: asyncio.Event) -> None:
        """Take in what is due, until the end or until `stop` is set."""
        from clover.agents.lifetime import happens_within  # noqa: PLC0415 - only a replay that is watched needs it

        for line in self._lines:
            wait_s = (float(line["at_ms"]) - self.now_ms()) / 1e3 / self._speed if self._moved_s is not None else 0.0
            if wait_s > 0.0 and await happens_within(stop, wait_s):
                return
            self._take(line)
            self._moved_s = time.monotonic()
        self.ended = True

    def _take(self, line: Mapping[str, Any]) -> None:
        try:
            self._at_ms = max(self._at_ms, float(line["at_ms"]))
            if "t" in line:
                fields = [b"v", VERSION.encode(), b"t", str(line["t"]).encode(), b"d", orjson.dumps(line["d"])]
                self.view.take(decode(fields), now_ms=self._at_ms)
            else:
                self._value(str(line["value"]), line["d"])
        except (KeyError, TypeError, ValueError, MessageRejectedError) as error:
            raise ConfigurationError(f"{self._path}: a line cannot be read: {error}") from error

    def _value(self, name: str, value: Any) -> None:
        match name:
            case "plan":
                self.view.set_plan(msgspec.convert(value, PlanRecord | None))
            case "queue":
                self.view.set_queue(msgspec.convert(value, QueueStatus | None))
            case "override":
                self.view.set_override(msgspec.convert(value, Override | None))
            case "agents":
                self.view.set_alive(value, now_ms=self._at_ms)
            case _:
                return


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines; the last may be cut off by a crash, and is left out then."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:
                    if text.endswith(b"\n"):
                        raise ConfigurationError(f"{path}: not a recording: {text[:40]!r}") from None
                    return
                yield line if isinstance(line, dict) else {}
    except (OSError, EOFError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
