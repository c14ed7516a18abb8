"""The upper lines of the dashboard: header and figures, the most important first, as many as fit."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard_text import age, both_ends, change, clean, clock, fit, grams, percent, sparkline
from clover.analysis.view_state import IntensityNow, Saved, Service, Snapshot

#: Nothing heard for this long is said aloud.
SILENT_S = 5.0
#: An intensity is stale when its interval ended this long ago and no other has come.
STALE_S = 3.0
#: Less headroom than this is a warning.
_TIGHT_PCT = 5.0
_STATES = {
    "OK": ("OK ●", "bold green"),
    "WARN": ("WARN ▲", "bold yellow"),
    "SLA": ("SLA ✖", "bold red"),
    "-": ("-", "dim"),
}
_LABEL_WIDTH = 8


def header(snapshot: Snapshot, deployment: str, width: int) -> Text:
    """Say what is shown, whether its figures are real, and what it saved."""
    at = Text(clock(snapshot.at_ms), style="bold")
    what = " ".join(filter(None, (snapshot.application, snapshot.scheme and f"by {snapshot.scheme}")))
    plan = (
        f"epoch {snapshot.epoch} {snapshot.state} {age(snapshot.state_s)}" if snapshot.epoch else "waiting for a plan"
    )
    parts = [
        Text(f"clover {clean(deployment)}", style="bold"),
        Text(f" {badge(snapshot)} ", style="black on yellow") if badge(snapshot) else None,
        no_data(snapshot),
        Text(plan, style="yellow" if snapshot.state == "rolling" else ""),
        _saved_short(snapshot.saved),
        Text(clean(what)) if what else None,
        Text(clean(f"on {snapshot.gpu_model}")) if snapshot.gpu_model else None,
    ]
    return both_ends(fit(parts, width - 9, gap="  "), at, width)


def badge(snapshot: Snapshot) -> str:
    """Say where joules come from if nobody measured them."""
    source = snapshot.energy_source or ""
    if "simulated" in source:
        return "SIM"
    return "ESTIMATE" if "estimate" in source else ""


def no_data(snapshot: Snapshot) -> Text | None:
    """Say for how long nothing was heard, if that is worth saying."""
    if snapshot.data_age_s is not None and snapshot.data_age_s <= SILENT_S and not snapshot.trouble:
        return None
    since = "no data yet" if snapshot.data_age_s is None else f"no data for {age(snapshot.data_age_s)}"
    return Text(since, style="bold red")


def _saved_short(saved: Saved | None) -> Text | None:
    if saved is None or saved.base_pct is None:
        return None
    return Text(f"saved {grams(saved.base_g)} {percent(saved.base_pct)}", style="bold green")


def figures(snapshot: Snapshot, width: int) -> list[Text]:
    """Draw the figures, a line each."""
    service = snapshot.service
    return [
        _line("grid", _grid_parts(snapshot, width), width),
        _line("carbon", _carbon_parts(snapshot), width),
        _line("saved", _saved_parts(snapshot.saved), width),
        _line("p95", _p95_parts(service), width),
        _line("accuracy", _quality_parts(service), width),
        _line("ended", _outcome_parts(snapshot), width),
    ]


def _line(label: str, parts: list[Text | str | None], width: int) -> Text:
    line = Text(f"{label:<{_LABEL_WIDTH}} ", style="bold")
    rest = fit(parts, width - _LABEL_WIDTH - 1, gap="  ")
    return Text.assemble(line, rest)


def _grid_parts(snapshot: Snapshot, width: int) -> list[Text | str | None]:
    now = snapshot.intensity
    if now is None:
        return [Text("intensity not known yet", style="dim")]
    stale = Text(f"stale {age(now.stale_s)}", style="bold yellow") if now.stale_s > STALE_S else None
    return [
        Text(f"{now.g_per_kwh:.0f} gCO2e/kWh", style="dim" if stale else "bold"),
        stale,
        Text(sparkline(now.history, max(8, width // 5)), style="cyan"),
        f"{now.kind} of {clean(now.zone)}",
        f"age {age(now.age_s)}",
        _source(now),
        f"PUE {now.pue:g}",
        f"fallback {now.fallback_level}" if now.fallback_level else None,
    ]


def _source(now: IntensityNow) -> str:
    row = "" if now.trace_index is None else f" row {now.trace_index}"
    return clean(now.source) + row


def _carbon_parts(snapshot: Snapshot) -> list[Text | str | None]:
    per = snapshot.per_request
    now = Text(f"{grams(per.measured_g)} a request", style="bold")
    return [
        now,
        f"BASE {grams(per.base_g)} {_in_brackets(change(per.measured_g, per.base_g))}".rstrip(),
        f"right-sized {grams(per.rightsized_g)} {_in_brackets(change(per.measured_g, per.rightsized_g))}".rstrip(),
        None if per.energy_j is None else f"{per.energy_j:.1f} J",
        Text(f"last {age(per.window_s)}, baselines modelled", style="dim") if per.window_s else None,
    ]


def _in_brackets(text: str) -> str:
    return f"({text})" if text else ""


def _saved_parts(saved: Saved | None) -> list[Text | str | None]:
    if saved is None:
        return [Text("nothing counted yet", style="dim")]
    since = f"{'watched since' if saved.joined else 'since'} {clock(saved.since_ms)}"
    if saved.base_pct is None:
        return [Text(f"counting {since}", style="dim")]
    return [
        Text(f"{grams(saved.base_g)} {percent(saved.base_pct)} against BASE", style="bold"),
        f"{grams(saved.rightsized_g)} {percent(saved.rightsized_pct)} against right-sized",
        Text("BASE misses the SLA: not fair", style="yellow") if saved.base_feasible is False else None,
        Text(since, style="dim"),
        Text(f"used {grams(saved.footprint_g)}", style="dim"),
    ]


def judge(service: Service) -> str:
    """Return `OK`, `WARN` (little headroom), `SLA` (broken) or `-` (nothing to judge)."""
    if not service.finished or service.sla_p95_ms is None:
        return "-"
    if service.p95_unbounded or service.p95_ms is None or service.p95_ms > service.sla_p95_ms:
        return "SLA"
    return "WARN" if (service.headroom_pct or 0.0) < _TIGHT_PCT else "OK"


def _p95_parts(service: Service) -> list[Text | str | None]:
    sign, style = _STATES[judge(service)]
    head = None if service.headroom_pct is None else f"headroom {service.headroom_pct:.0f} %"
    return [
        Text(f"{milliseconds(service)} of {sla(service)}", style="bold"),
        Text(sign, style=style),
        head,
        None if service.late_pct is None else f"late {percent(service.late_pct)}",
        sparkline(service.p95_history, 6),
        Text(f"last {age(service.window_s)}", style="dim") if service.window_s else None,
    ]


def milliseconds(service: Service) -> str:
    """Write the p95."""
    if service.p95_unbounded:
        return "unbounded"
    return "-" if service.p95_ms is None else f"{service.p95_ms:.0f} ms"


def sla(service: Service) -> str:
    """Write the promise."""
    return "SLA unknown" if service.sla_p95_ms is None else f"{service.sla_p95_ms:.0f} ms"


def _quality_parts(service: Service) -> list[Text | str | None]:
    rate = "-" if service.rate_rps is None else f"{service.rate_rps:.1f}/s"
    planned = "" if service.planned_rps is None else f" (plan {service.planned_rps:.1f})"
    waiting = None if service.waiting is None else f"{service.waiting} waiting"
    best = service.largest_accuracy_pct
    against = "" if best is None else f" of {best:.2f} % {_in_brackets(_loss(service.accuracy_pct, best))}".rstrip()
    return [
        Text(f"{percent(service.accuracy_pct, 2)}{against}", style="bold"),
        f"load {rate}{planned}",
        waiting,
        f"{service.in_flight} in work",
    ]


def _loss(now: float | None, best: float) -> str:
    """Write the accuracy that is given up, in percent of the largest variant's."""
    return "" if now is None or not best else f"{100.0 * (now / best - 1.0):+.1f} %"


def _outcome_parts(snapshot: Snapshot) -> list[Text | str | None]:
    bad = {"expired", "overloaded", "failed", "lost"}
    return [
        Text(f"{name} {count}", style="bold red" if count and name in bad else "" if count else "dim")
        for name, count in snapshot.outcomes.items()
    ]


def source_note(snapshot: Snapshot) -> str:
    """Say where the joules come from, or why nothing comes."""
    if snapshot.trouble:
        return clean(snapshot.trouble)
    return "" if snapshot.energy_source is None else f"energy: {clean(snapshot.energy_source)}"
