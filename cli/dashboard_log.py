"""Page 5 of the dashboard: events and log lines, the newest at the foot."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard_options import Scrolled, ViewOptions, passes, scrolled
from cli.dashboard_text import clean, clock, cut, titled_rule
from clover.analysis.view_state import EventNow, Snapshot

_ALARMING = ("failed", "died", "lost", "error", "critical", "refused", "fenced", "stale", "out_of_memory")


def log_page(snapshot: Snapshot, options: ViewOptions, width: int, room: int) -> tuple[list[Text], Scrolled]:
    """Draw the page; scrolling goes back in time."""
    shown = [event for event in snapshot.events if passes(_plain(event), options.filter)]
    part = scrolled(len(shown), room - 1, options.scroll)
    end = len(shown) - part.first
    what = f"{len(shown)} of {len(snapshot.events)} events" if options.filter else f"{len(shown)} events"
    older = f", {end} older ones ↑" if part.first else ""
    title = Text(f"{what} and log lines since this view was opened{older}" if shown else _nothing(options))
    lines = [titled_rule(title, width)]
    return lines + [event_line(event, width) for event in shown[max(0, end - room + 1) : end]], part


def _nothing(options: ViewOptions) -> str:
    return f"nothing contains {clean(options.filter)!r}" if options.filter else "no events yet"


def _plain(event: EventNow) -> str:
    return f"{event.kind} {event.source} {event.subject} {event.reason}"


def event_line(event: EventNow, width: int) -> Text:
    """Draw one event: when, what, about what, why."""
    line = Text().append(f"{clock(event.at_ms)} ", style="dim")
    line.append(f"{clean(event.kind)} ", style="bold red" if event.kind.endswith(_ALARMING) else "bold")
    # What a decision is about is a whole configuration; why it was made is worth more of the line.
    told = (event.reason, event.subject) if event.kind == "decision" else (event.subject, event.reason)
    by = f"{event.source}:" if event.kind.startswith("log.") else ""
    line.append(clean(" ".join(filter(None, (by, *told)))))
    return cut(line, width)
