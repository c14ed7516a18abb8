"""Page 4 of the dashboard: how requests ended, how long they took, and which variants answered them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from cli.dashboard_charts import beside, block, charted
from cli.dashboard_curves import footprint_chart, latency_chart, rate_chart
from cli.dashboard_figures import STATES, judge, p95_text, sla
from cli.dashboard_map import variant_style
from cli.dashboard_options import ViewOptions, passes
from cli.dashboard_text import age, clean, cut, fit, milliseconds, number_of, percent, titled_rule
from clover.analysis.view_past import VariantWork
from clover.analysis.view_state import Snapshot

_BAD = {"expired", "overloaded", "failed", "lost"}
_MEANING = {
    "ok": "answered within the SLA",
    "late": "answered after the SLA",
    "expired": "not begun before the deadline",
    "overloaded": "refused at the door",
    "failed": "a worker could not",
    "lost": "no reply at all",
}
_GAP = 3


def requests_page(snapshot: Snapshot, options: ViewOptions, order: Sequence[str], width: int, room: int) -> list[Text]:
    """Draw the page."""
    service = snapshot.service
    sign, style = STATES[judge(service)]
    lines = [
        titled_rule(Text(f"latency from due time to receipt, last {age(service.window_s)}"), width),
        fit(
            [
                Text.assemble(("p95 ", "bold"), f"{p95_text(service)} of {sla(service)}"),
                Text(sign, style=style),
                f"p50 {milliseconds(service.p50_ms)}",
                f"p99 {milliseconds(service.p99_ms)}",
                f"late {percent(service.late_pct)}",
                f"{service.finished} requests",
            ],
            width,
        ),
        fit(
            [
                Text.assemble(("queue ", "bold"), "-" if service.waiting is None else f"{service.waiting} waiting"),
                f"{service.in_flight} in work",
                "" if service.rate_rps is None else f"{service.rate_rps:.1f} requests/s end",
            ],
            width,
        ),
        *_outcomes(snapshot, width),
        *_work(snapshot.work, options, order, width),
        *_causes(snapshot, width),
    ]
    left = room - len(lines)
    if left >= 5:
        lines += _charts(snapshot, options, width, min(10, left - 1))
    return lines


def _outcomes(snapshot: Snapshot, width: int) -> list[Text]:
    total, recent = sum(snapshot.outcomes.values()), sum(snapshot.recent.values())
    lines = [
        titled_rule(Text("how requests ended"), width),
        Text(f"{'':<12}{'in all':>12}{'share':>10}{'last minute':>14}", style="bold"),
    ]
    for name, count in snapshot.outcomes.items():
        share = percent(100.0 * count / total, 2) if total else "-"
        style = "bold red" if name in _BAD and count else "yellow" if name == "late" and count else ""
        line = Text(f"{name:<12}{count:>12}{share:>10}{snapshot.recent.get(name, 0):>14}", style=style)
        line.append(f"   {_MEANING.get(name, '')}", style="dim")
        lines.append(cut(line, width))
    lines.append(Text(f"{'sent':<12}{total:>12}{'':>10}{recent:>14}", style="bold"))
    return lines


def _work(work: Sequence[VariantWork], options: ViewOptions, order: Sequence[str], width: int) -> list[Text]:
    head = f"{'variant':<22}{'answers':>10}{'share':>10}{'accuracy':>12}{'service':>12}{'J each':>12}"
    lines = [
        titled_rule(Text("who answered, last minute; J as the workers tell, idle power not included"), width),
        cut(Text(head, style="bold"), width),
    ]
    shown = [each for each in work if passes(each.variant, options.filter)]
    for each in shown:
        line = Text("  ", style=variant_style(order, each.variant))
        rest = (
            f" {clean(each.variant):<19}{each.answered:>10}{percent(each.share_pct):>10}"
            f"{percent(each.accuracy_pct, 2):>12}{milliseconds(each.service_ms):>12}{number_of(each.energy_j):>12}"
        )
        lines.append(cut(Text.assemble(line, rest), width))
    return lines if shown else [*lines, Text("nothing was answered", style="dim")]


def _causes(snapshot: Snapshot, width: int) -> list[Text]:
    """Say what joules of the deployment were used for."""
    total = sum(snapshot.by_cause_j.values())
    if not total:
        return []
    causes = sorted(snapshot.by_cause_j.items(), key=lambda item: -item[1])
    told = [f"{clean(name)} {100.0 * joules / total:.0f} %" for name, joules in causes if joules]
    return [fit([Text("energy went to", style="bold"), *told], width)]


def _charts(snapshot: Snapshot, options: ViewOptions, width: int, height: int) -> list[Text]:
    columns = 3 if width >= 110 else 2
    each = (width - _GAP * (columns - 1)) // columns
    makers = (rate_chart, latency_chart, footprint_chart)[:columns]
    drawn = [block(make(snapshot, options.window_s, each), each, height) for make in makers]
    return [titled_rule(Text(charted(snapshot, options.window_s)), width), *beside(drawn, _GAP)]
