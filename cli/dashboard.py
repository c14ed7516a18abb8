"""The dashboard as a picture: a pure function from a snapshot to a rich renderable, and the same in one line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from cli.dashboard_decisions import decisions_page
from cli.dashboard_figures import (
    STALE_S,
    badge,
    header,
    judge,
    no_data,
    override_marks,
    p95_text,
    sla,
    source_note,
)
from cli.dashboard_gpus import gpus_page
from cli.dashboard_help import footer, help_page
from cli.dashboard_log import log_page
from cli.dashboard_options import ViewOptions
from cli.dashboard_overview import overview
from cli.dashboard_requests import requests_page
from cli.dashboard_text import Frame, age, clean, cut, grams, percent, plain
from clover.analysis.palette import order_of
from clover.analysis.view_state import Snapshot

__all__ = ["ViewOptions", "status_line", "view"]


def view(snapshot: Snapshot, width: int, height: int, options: ViewOptions | None = None) -> Frame:
    """Draw the dashboard for a terminal of this size; every line fits, and there are at most `height` of them.

    Args:
        snapshot: What to show.
        width: Of the terminal, in cells.
        height: Of the terminal, in lines.
        options: How to look at it.
    """
    options = options or ViewOptions()
    order = order_of(options.variants, snapshot.variants)
    top = [header(snapshot, options, width)]
    bottom = [footer(options, source_note(snapshot), width)]
    if snapshot.trouble:
        bottom.insert(0, Text(clean(snapshot.trouble), style="bold red"))
    body, most = _page(snapshot, options, order, width, max(0, height - len(top) - len(bottom)))
    lines = [*top, *body]
    lines += [Text()] * max(0, height - len(lines) - len(bottom))
    lines = [cut(line, width) for line in [*lines[: max(0, height - len(bottom))], *bottom][:height]]
    if options.ascii_only:
        lines = [plain(line) for line in lines]
    if not options.colour:
        lines = [Text(line.plain, no_wrap=True, overflow="crop") for line in lines]
    return Frame(tuple(lines), most)


def _page(
    snapshot: Snapshot, options: ViewOptions, order: Sequence[str], width: int, room: int
) -> tuple[list[Text], int]:
    """Draw the chosen page; return also how far it can be scrolled."""
    if options.help:
        lines, part = help_page(options, width, room)
        return lines, part.most
    match options.page:
        case "gpus":
            lines, part = gpus_page(snapshot, options, order, width, room)
        case "decisions":
            lines, part = decisions_page(snapshot, options, width, room)
        case "log":
            lines, part = log_page(snapshot, options, width, room)
        case "requests":
            return requests_page(snapshot, options, order, width, room), 0
        case _:
            return overview(snapshot, options, order, width, room), 0
    return lines, part.most


def status_line(snapshot: Snapshot) -> str:
    """Return the state of the deployment in one line, for where there is no terminal."""
    now, per, service = snapshot.intensity, snapshot.per_request, snapshot.service
    saved = snapshot.saved.base_pct if snapshot.saved else None
    small = snapshot.saved.rightsized_pct if snapshot.saved else None
    missing = no_data(snapshot)
    stale = f" (stale {age(now.stale_s)})" if now is not None and now.stale_s > STALE_S else ""
    parts = [
        badge(snapshot),
        *(mark.plain.strip() for mark in override_marks(snapshot.override)),
        missing.plain if missing else "",
        f"grid {now.g_per_kwh:.0f} g/kWh{stale}" if now else "grid unknown",
        f"{grams(per.measured_g)} a request, BASE {grams(per.base_g)}",
        f"saved {percent(saved)} (right-sized {percent(small)})",
        f"p95 {p95_text(service)} of {sla(service)} {judge(service)}",
        f"accuracy {percent(service.accuracy_pct, 2)}",
        "load -" if service.rate_rps is None else f"load {service.rate_rps:.1f}/s",
        f"epoch {snapshot.epoch} {snapshot.state}" if snapshot.epoch else "waiting for a plan",
        ", ".join(f"{name} {count}" for name, count in snapshot.outcomes.items() if count) or "no requests yet",
    ]
    return " | ".join(filter(None, parts))
