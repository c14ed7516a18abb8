"""Page 3 of the dashboard: decisions, why they were taken, what they beat, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from cli.dashboard_figures import override_line
from cli.dashboard_options import Scrolled, ViewOptions, passes, scrolled
from cli.dashboard_text import age, clean, clock, cut, fit, milliseconds, number_of, percent, titled_rule, wrapped
from clover.analysis.view_past import AlternativePast, DecisionPast
from clover.analysis.view_state import Snapshot

_CELL = 14
_LABEL = 22
#: Of the words before the sentences.
_WORD = 11


def decisions_page(snapshot: Snapshot, options: ViewOptions, width: int, room: int) -> tuple[list[Text], Scrolled]:
    """Draw the page: the chosen decision in full, the others as a list; scrolling chooses, newest first."""
    shown = [each for each in reversed(snapshot.decisions) if passes(_plain(each), options.filter)]
    if not shown:
        said = f"no decision contains {clean(options.filter)!r}" if options.filter else "no decision yet"
        return [titled_rule(Text(said), width)], scrolled(0, 1, 0)
    chosen = scrolled(len(shown), 1, options.scroll)
    listed = min(len(shown), max(3, room // 3))
    around = scrolled(len(shown), listed, max(0, chosen.first - listed // 2))
    note = f"{len(shown)} decisions, newest first; ↑ ↓ choose" if len(shown) > 1 else "1 decision"
    overruled = override_line(snapshot.override, width)
    lines = [*([overruled] if overruled else []), titled_rule(Text(note), width)]
    lines += [_row(shown[index], width, chosen=index == chosen.first) for index in range(around.first, around.end)]
    return lines + _details(shown[chosen.first], snapshot, width, room - len(lines)), chosen


def _plain(decision: DecisionPast) -> str:
    return f"{decision.number} {decision.trigger} {decision.scheme} {decision.reason} {decision.configuration}"


def _row(decision: DecisionPast, width: int, *, chosen: bool) -> Text:
    line = Text("▸ " if chosen else "  ")
    line.append(f"{clock(decision.at_ms)} #{decision.number} {clean(decision.trigger)} ", style="bold")
    line.append(clean(decision.reason))
    if chosen:
        line.stylize("reverse")
    return cut(line, width)


def _details(decision: DecisionPast, snapshot: Snapshot, width: int, room: int) -> list[Text]:
    ago = age(max(0.0, snapshot.at_ms - decision.at_ms) / 1e3)
    title = f"decision {decision.number} by {clean(decision.scheme) or 'an unnamed scheme'}, {ago} ago"
    lines = [titled_rule(Text(title), width)]
    lines += _labelled("because", decision.reason, width)
    lines += _labelled("chosen", decision.configuration, width)
    circumstances = [
        f"for {decision.rate_rps:.1f} requests/s" if decision.rate_rps is not None else None,
        f"at {decision.intensity_g_per_kwh:.0f} gCO2e/kWh" if decision.intensity_g_per_kwh is not None else None,
        f"{decision.evaluations} evaluated" if decision.evaluations else None,
        None if decision.meets_sla else Text("misses the SLA by its own prediction ✖", style="bold red"),
    ]
    label = Text(f"{'decided':<{_WORD}}", style="bold")
    lines.append(Text.assemble(label, fit(circumstances, width - _WORD, gap="  ")))
    tables = [_comparison(decision, width), _beaten(decision.alternatives, width)]
    # Blank lines are the first to go.
    spare = len(lines) + sum(len(table) + 1 for table in tables) <= room
    for table in tables:
        lines += [Text(), *table] if spare else table
    return lines[: max(0, room)]


def _labelled(label: str, text: str, width: int) -> list[Text]:
    """Write a text of up to three lines beside its label."""
    lines = wrapped(Text(clean(text)), max(1, width - _WORD), 3)
    return [Text.assemble((f"{'' if number else label:<{_WORD}}", "bold"), line) for number, line in enumerate(lines)]


def _comparison(decision: DecisionPast, width: int) -> list[Text]:
    """Draw what was predicted beside what was measured while the decision was in force."""
    measured = decision.measured
    rows = [
        ("p95", milliseconds(decision.p95_ms), milliseconds(measured.p95_ms if measured else None),
         _off(decision.p95_ms, measured.p95_ms if measured else None)),
        ("accuracy", percent(decision.accuracy_pct, 2), percent(measured.accuracy_pct if measured else None, 2),
         _off(decision.accuracy_pct, measured.accuracy_pct if measured else None)),
        ("J per request", number_of(decision.energy_j_per_request),
         number_of(measured.energy_j_per_request if measured else None),
         _off(decision.energy_j_per_request, measured.energy_j_per_request if measured else None)),
        ("requests/s", number_of(decision.rate_rps), number_of(measured.rate_rps if measured else None),
         _off(decision.rate_rps, measured.rate_rps if measured else None)),
    ]  # fmt: skip
    over = f"{measured.finished} ended, {age(measured.seconds)}" if measured else "no request yet"
    columns = f"{'predicted':>{_CELL}}{'measured':>{_CELL}}{'difference':>{_CELL}}"
    head = Text.assemble(f"{over:<{_LABEL}}", (columns, "bold"))
    body = [Text(f"{name:<{_LABEL}}{p:>{_CELL}}{m:>{_CELL}}{off:>{_CELL}}") for name, p, m, off in rows]
    return [cut(line, width) for line in (head, *body)]


def _off(predicted: float | None, measured: float | None) -> str:
    """Return how far the measured value is off the predicted one."""
    return (
        "-"
        if predicted is None or measured is None or not predicted
        else f"{100.0 * (measured / predicted - 1.0):+.1f} %"
    )


def _beaten(others: Sequence[AlternativePast], width: int) -> list[Text]:
    if not others:
        return [Text("nothing else was told of", style="dim")]
    room = max(20, width - 4 * _CELL)
    head = f"{'beat':<{room}}{'p95':>{_CELL}}{'accuracy':>{_CELL}}{'J':>{_CELL}}{'objective':>{_CELL}}"
    return [cut(Text(head, style="bold"), width), *(cut(_beaten_row(other, room), width) for other in others)]


def _beaten_row(other: AlternativePast, room: int) -> Text:
    name = cut(Text(clean(other.configuration)), room - 1).plain
    p95 = milliseconds(other.p95_ms, unbounded=other.p95_ms is None)
    mark = "" if other.meets_sla else " ✖"
    return Text(
        f"{name:<{room}}{p95 + mark:>{_CELL}}{other.accuracy_pct:>{_CELL - 2}.2f} %"
        f"{other.energy_j_per_request:>{_CELL}.1f}{other.objective:>{_CELL}.2f}",
        style="" if other.meets_sla else "dim",
    )
