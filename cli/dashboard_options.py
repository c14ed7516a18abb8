"""How somebody looks at a deployment: page, window, filter; plain values that a picture is a function of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Pages in the order of their keys 1 to 5.
PAGES = ("overview", "gpus", "decisions", "requests", "log")
#: What charts may cover, in seconds.
WINDOWS_S = (60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """How to look.

    Attributes:
        deployment: For the header.
        variants: Of the application, in the order that fixes their colours; others follow as they appear.
        ascii_only: Use no other characters.
        colour: False leaves out all styles; nothing is said by colour alone.
        page: One of `PAGES`.
        window_s: What charts cover.
        filter: Only rows that contain this text, in any case; with `!` in front only the others.
        scroll: Rows skipped; more than there are shows the last.
        help: Show the keys instead of a page.
        paused: The picture is held (the deployment is not).
        prompt: What is being typed at the foot of the screen; None if nothing is.
        notice: What to say at the foot instead of the keys; empty for the keys.
        recording: Whether messages are being recorded.
        replay: Of what a replay is shown; empty if it is live.
        control: Whether keys that change the deployment are offered.
    """

    deployment: str = "clover"
    variants: Sequence[str] = ()
    ascii_only: bool = False
    colour: bool = True
    page: str = "overview"
    window_s: float = 300.0
    filter: str = ""
    scroll: int = 0
    help: bool = False
    paused: bool = False
    prompt: str | None = None
    notice: str = ""
    recording: bool = False
    replay: str = ""
    control: bool = False


def passes(text: str, wanted: str) -> bool:
    """Return whether a row's text is among those that a filter lets through."""
    if wanted.startswith("!"):
        return wanted[1:].lower() not in text.lower()
    return wanted.lower() in text.lower()


@dataclass(frozen=True, slots=True)
class Scrolled:
    """A part of a list: rows `first` to `end` of `total`; `most` is the largest scroll that makes sense."""

    first: int
    end: int
    total: int
    most: int

    @property
    def note(self) -> str:
        """Say which part it is; empty if it is all."""
        return "" if self.total <= self.end - self.first else f"{self.first + 1}-{self.end} of {self.total}"


def scrolled(total: int, room: int, scroll: int) -> Scrolled:
    """Return which rows of a list to show where there is room for so many."""
    most = max(0, total - max(0, room))
    first = max(0, min(scroll, most))
    return Scrolled(first=first, end=min(total, first + max(0, room)), total=total, most=most)
