"""Pieces of text that the dashboard is made of: lines that never wrap, signs, ages, sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
#: Every character that is used beyond ASCII, and what stands for it where a terminal has only that.
_ASCII = str.maketrans("▁▂▃▄▅▆▇█░─│·●▲✖→…■┄▸↑↓", "_.,-=+*#:-|.*!x>~#->^v")


@dataclass(frozen=True)
class Frame:
    """A picture: its lines, each of which fits the terminal. Equal pictures need not be drawn again.

    Attributes:
        lines: Of the picture.
        scroll_most: The largest scroll that shows anything else.
    """

    lines: tuple[Text, ...]
    scroll_most: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        del console, options
        yield from self.lines


def clean(text: str) -> str:
    """Return text of others without line breaks and control characters, which could take over the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def plain(text: Text) -> Text:
    """Return a line in ASCII; what has no counterpart becomes a question mark, a wide character two."""
    text = text.copy()
    swapped = text.plain.translate(_ASCII)
    text.plain = "".join(c if c.isascii() else "?" for c in swapped)
    return text


def cut(text: Text, width: int) -> Text:
    """Return a line of at most this many cells, ending in an ellipsis if something is missing."""
    text = text.copy()
    text.truncate(max(0, width), overflow="ellipsis")
    text.no_wrap, text.overflow, text.end = True, "crop", "\n"
    return text


def fit(parts: Iterable[Text | str | None], width: int, gap: str = "   ") -> Text:
    """Join the parts that fit, most important first; the first is cut if need be, others are left out as a whole."""
    line = Text()
    for part in parts:
        if not part:
            continue
        piece = Text(part) if isinstance(part, str) else part
        if not line:
            # Appended to an empty line, because a text's own style would hold for all that follows.
            line.append_text(piece)
            line.truncate(width, overflow="ellipsis")
        elif line.cell_len + len(gap) + piece.cell_len <= width:
            line.append(gap)
            line.append_text(piece)
    return line


def both_ends(left: Text, right: Text, width: int) -> Text:
    """Put one text at the left and one at the right; the left gives way."""
    room = max(0, width - right.cell_len - 1)
    line = Text().append_text(left)
    line.truncate(room, overflow="ellipsis")
    line.append(" " * max(1, width - line.cell_len - right.cell_len))
    line.append_text(right)
    return line


def titled_rule(title: Text, width: int) -> Text:
    """Return a line of dashes with a title in it."""
    line = Text().append("── ", style="dim")
    line.append_text(title)
    line.truncate(width - 2, overflow="ellipsis")
    line.append(" " + "─" * max(0, width - line.cell_len - 1), style="dim")
    return line


def wrapped(text: Text, width: int, lines: int) -> list[Text]:
    """Break a text between words into at most so many lines; what is left over is cut off with an ellipsis."""
    if lines < 1 or width < 1:
        return []
    found: list[Text] = []
    rest = text
    while len(found) < lines - 1 and rest.cell_len > width:
        at = rest.plain.rfind(" ", 0, width + 1)
        if at <= 0:
            break
        head, rest = rest.divide([at])
        rest = rest[1:] if rest.plain.startswith(" ") else rest
        found.append(head)
    return [*found, cut(rest, width)] if rest else found


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Draw the newest values that fit, from the smallest to the largest among them; a missing one is a blank."""
    shown = list(values)[-max(0, width) :] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    middle = 0 if scale else len(_BARS) // 2
    return "".join(" " if value is None else _BARS[middle + round((value - low) * scale)] for value in shown)


def age(seconds: float) -> str:
    """Write a duration so that it stays short: `12 s`, `3 min`, `2.5 h`, `3 d`."""
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    if seconds < 6000.0:
        return f"{seconds / 60.0:.0f} min"
    return f"{seconds / 3600.0:.1f} h" if seconds < 48 * 3600.0 else f"{seconds / 86400.0:.0f} d"


def clock(at_ms: float) -> str:
    """Write a moment as time of day where the reader is."""
    return datetime.fromtimestamp(at_ms / 1e3, tz=UTC).astimezone().strftime("%H:%M:%S")


def grams(value: float | None) -> str:
    """Write a footprint with three digits, in the unit that suits it."""
    if value is None:
        return "-"
    if value != 0.0 and abs(value) < 0.1:
        return f"{_digits(value * 1e3)} mg"
    return f"{_digits(value)} g" if abs(value) < 1e3 else f"{_digits(value / 1e3)} kg"


def _digits(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 10.0 else f"{value:.1f}" if size < 100.0 else f"{value:.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share that may be missing."""
    return "-" if value is None else f"{value:.{digits}f} %"


def change(now: float | None, other: float | None) -> str:
    """Write how far something is below (-) or above (+) something else, in percent."""
    if now is None or not other:
        return ""
    return f"{100.0 * (now / other - 1.0):+.0f} %"


def milliseconds(value: float | None, *, unbounded: bool = False) -> str:
    """Write a latency that may be missing or without bound."""
    if unbounded:
        return "unbounded"
    return "-" if value is None else f"{value:.0f} ms"


def watts(value: float | None) -> str:
    """Write a power that may be missing."""
    if value is None:
        return "-"
    return f"{value:.0f} W" if value < 1e4 else f"{value / 1e3:.1f} kW"


def number_of(value: float | None, digits: int = 1) -> str:
    """Write a plain figure that may be missing."""
    return "-" if value is None else f"{value:.{digits}f}"
