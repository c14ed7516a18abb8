"""The dashboard as a picture: a pure function from a snapshot to a rich renderable, and the same in one line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from cli import dashboard_map as gpu_map
from cli.dashboard_figures import STALE_S, badge, figures, header, judge, milliseconds, no_data, sla, source_note
from cli.dashboard_text import (
    Frame,
    age,
    both_ends,
    clean,
    clock,
    cut,
    fit,
    grams,
    percent,
    plain,
    titled_rule,
    wrapped,
)
from clover.analysis.view_state import EventNow, Snapshot


def render(
    snapshot: Snapshot,
    width: int,
    height: int,
    *,
    deployment: str = "clover",
    variants: Sequence[str] = (),
    ascii_only: bool = False,
    colour: bool = True,
) -> Frame:
    """Draw the dashboard for a terminal of this size; every line fits, and there are at most `height` of them.

    Args:
        snapshot: What to show.
        width: Of the terminal, in cells.
        height: Of the terminal, in lines.
        deployment: For the header.
        variants: Of the application, in the order that fixes their colours; others follow as they appear.
        ascii_only: Use no other characters.
        colour: False leaves out all styles; nothing is said by colour alone.
    """
    order = gpu_map.variant_order(snapshot, variants)
    top = [header(snapshot, deployment, width), *figures(snapshot, width)]
    bottom = [both_ends(Text("q quit", style="dim"), Text(source_note(snapshot), style="dim"), width)]
    room = max(0, height - len(top) - len(bottom))
    lines = [*top, *_body(snapshot, order, width, room)]
    lines += [Text()] * max(0, height - len(lines) - len(bottom))
    lines = [cut(line, width) for line in [*lines[: max(0, height - len(bottom))], *bottom][:height]]
    if ascii_only:
        lines = [plain(line) for line in lines]
    if not colour:
        lines = [Text(line.plain, no_wrap=True, overflow="crop") for line in lines]
    return Frame(tuple(lines))


def _body(snapshot: Snapshot, order: Sequence[str], width: int, room: int) -> list[Text]:
    """Share the lines between map, decision and events: the map first, but never all of them."""
    gpus = sum(len(node.gpus) for node in snapshot.nodes)
    map_room = max(1, min(gpus, room - 5))
    lines = [titled_rule(gpu_map.legend(snapshot, order, width - 8), width)]
    lines += gpu_map.rows(snapshot, order, width, map_room)
    left = room - len(lines)
    lines += _decision(snapshot, width, min(left - 2, 3 + max(0, left - 8) // 2))
    left = room - len(lines)
    if left >= 4:
        lines.append(titled_rule(Text("events"), width))
        left -= 1
    return lines + [_event(event, width) for event in snapshot.events[-left:]] if left > 0 else lines


# --- story


def _decision(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    """Say what was decided last and why; with more room, what it promises and what it beat."""
    decision = snapshot.decision
    if room < 1:
        return []
    if decision is None:
        return [titled_rule(Text("no decision yet"), width)]
    title = f"decision {decision.number} on {decision.trigger}, {age(decision.age_s)} ago"
    beat = f", beat {decision.alternatives} of {decision.evaluations} evaluated" if decision.alternatives else ""
    lines = [titled_rule(Text(title + beat), width)]
    lines += wrapped(Text(clean(decision.reason)), width, min(2, room - 1))
    expected = (
        f"expects p95 {_p95(decision.p95_ms)}, {decision.accuracy_pct:.2f} %, {decision.energy_j_per_request:.1f} J"
    )
    more = [fit([expected, f"of {clean(decision.wanted)}"], width, gap=" ")]
    more += [
        Text(
            f"beat {clean(other.configuration)}: p95 {_p95(other.p95_ms)}{'' if other.meets_sla else ' (misses SLA)'}, "
            f"{other.accuracy_pct:.2f} %, {other.energy_j_per_request:.1f} J",
            style="dim",
        )
        for other in decision.beaten
    ]
    return (lines + more)[:room]


def _p95(value: float | None) -> str:
    return "without bound" if value is None else f"{value:.0f} ms"


def _event(event: EventNow, width: int) -> Text:
    alarming = event.kind.endswith(("failed", "died", "lost", "error", "critical", "refused"))
    line = Text().append(f"{clock(event.at_ms)} ", style="dim")
    line.append(f"{clean(event.kind)} ", style="bold red" if alarming else "bold")
    # What a decision is about is a whole configuration; why it was made is worth more of the line.
    told = (event.reason, event.subject) if event.kind == "decision" else (event.subject, event.reason)
    line.append(clean(" ".join(filter(None, told))))
    return cut(line, width)


def status_line(snapshot: Snapshot) -> str:
    """Return the state of the deployment in one line, for where there is no terminal."""
    now, per, service = snapshot.intensity, snapshot.per_request, snapshot.service
    saved = snapshot.saved.base_pct if snapshot.saved else None
    small = snapshot.saved.rightsized_pct if snapshot.saved else None
    missing = no_data(snapshot)
    stale = f" (stale {age(now.stale_s)})" if now is not None and now.stale_s > STALE_S else ""
    parts = [
        badge(snapshot),
        missing.plain if missing else "",
        f"grid {now.g_per_kwh:.0f} g/kWh{stale}" if now else "grid unknown",
        f"{grams(per.measured_g)} a request, BASE {grams(per.base_g)}",
        f"saved {percent(saved)} (right-sized {percent(small)})",
        f"p95 {milliseconds(service)} of {sla(service)} {judge(service)}",
        f"accuracy {percent(service.accuracy_pct, 2)}",
        "load -" if service.rate_rps is None else f"load {service.rate_rps:.1f}/s",
        f"epoch {snapshot.epoch} {snapshot.state}",
        ", ".join(f"{name} {count}" for name, count in snapshot.outcomes.items() if count) or "no requests yet",
    ]
    return " | ".join(filter(None, parts))
