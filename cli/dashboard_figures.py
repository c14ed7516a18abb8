"""The upper lines of the dashboard: header and figures, the most important first, as many as fit."""

from __future__ import annotations

from rich.text import Text

from cli.dashboard_charts import bars
from cli.dashboard_curves import BASES, accuracy_chart, footprint_chart, latency_chart, rate_chart
from cli.dashboard_options import ViewOptions
from cli.dashboard_text import age, both_ends, change, clean, clock, fit, grams, milliseconds, percent, sparkline
from clover.analysis.view_state import IntensityNow, OverrideNow, Saved, Service, Snapshot

#: Nothing heard for this long is said aloud.
SILENT_S = 5.0
#: An intensity is stale when its interval ended this long ago and no other has come.
STALE_S = 3.0
#: A controller beats every second or two; one that has not for so long is called silent.
CONTROLLER_SILENT_S = 6.0
#: Width of the small charts in the lines of figures.
_SMALL = 14
#: Less headroom than this is a warning.
_TIGHT_PCT = 5.0
STATES = {
    "OK": ("OK ●", "bold green"),
    "WARN": ("WARN ▲", "bold yellow"),
    "SLA": ("SLA ✖", "bold red"),
    "-": ("-", "dim"),
}
_LABEL_WIDTH = 8
#: More GPUs or nodes than this are counted rather than named.
_NAMED = 2


def header(snapshot: Snapshot, options: ViewOptions, width: int) -> Text:
    """Say what is shown, whether its figures are real, and what it saved."""
    at = Text(clock(snapshot.at_ms), style="bold")
    what = " ".join(filter(None, (snapshot.application, snapshot.scheme and f"by {snapshot.scheme}")))
    parts = [
        Text("clover" if options.deployment == "clover" else f"clover {clean(options.deployment)}", style="bold"),
        Text(f" {badge(snapshot)} ", style="black on yellow") if badge(snapshot) else None,
        *_marks(options),
        *override_marks(snapshot.override),
        no_data(snapshot),
        _controller_trouble(snapshot),
        Text(_plan_state(snapshot, width), style="yellow" if snapshot.state == "rolling" else ""),
        _saved_short(snapshot.saved),
        _controller(snapshot),
        Text(clean(what)) if what else None,
        Text(clean(f"on {snapshot.gpu_model}")) if snapshot.gpu_model else None,
    ]
    return both_ends(fit(parts, width - 9, gap="  "), at, width)


def _marks(options: ViewOptions) -> list[Text]:
    """Say that this is not the present, or that it is being recorded."""
    told = [
        (clean(options.replay), "black on cyan"),
        ("PAUSED" if options.paused else "", "black on cyan"),
        ("REC" if options.recording else "", "white on red"),
        (f"/{clean(options.filter)}" if options.filter else "", "black on cyan"),
    ]
    return [Text(f" {word} ", style=style) for word, style in told if word]


def override_marks(override: OverrideNow) -> list[Text]:
    """Say in a word each what people have decided over the controller's head."""
    told = [
        "CONTROLLER PAUSED" if override.paused else "",
        f"{len(override.pinned)} PINNED" if override.pinned else "",
        f"{len(override.by_hand)} BY HAND" if override.by_hand else "",
    ]
    return [Text(f" {word} ", style="black on magenta") for word in told if word]


def override_line(override: OverrideNow, width: int) -> Text | None:
    """Say what is overridden, by whom, why and for how long; None if nothing is."""
    what = [
        f"controller paused{_left(override.paused_left_s)}" if override.paused else None,
        f"{_some(override.pinned, 'GPUs')} pinned{_left(override.pinned_left_s)}" if override.pinned else None,
        f"{_some(override.by_hand, 'nodes')} by hand" if override.by_hand else None,
    ]
    if not any(what):
        return None
    why = clean(f"by {override.by}" + (f": {override.reason}" if override.reason else ""))
    return fit([Text("overruled", style="bold magenta"), *what, why], width, gap="  ")


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f" for another {age(seconds)}"


def _some(names: tuple[str, ...], kind: str) -> str:
    """Name one or two, count more."""
    return clean(", ".join(names)) if len(names) <= _NAMED else f"{len(names)} {kind}"


def _plan_state(snapshot: Snapshot, width: int) -> str:
    if not snapshot.epoch:
        return "waiting for a plan"
    since = f" {age(snapshot.state_s)}" if width >= 100 else ""
    return f"epoch {snapshot.epoch} {snapshot.state}{since}"


def _controller_trouble(snapshot: Snapshot) -> Text | None:
    silent = snapshot.controller_silent_s
    if silent is None or silent <= CONTROLLER_SILENT_S:
        return None
    return Text(f"controller silent {age(silent)}", style="bold red")


def _controller(snapshot: Snapshot) -> Text | None:
    silent = snapshot.controller_silent_s
    if silent is None or silent > CONTROLLER_SILENT_S:
        return None
    return Text("controller ●", style="green")


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


def figures(snapshot: Snapshot, width: int, window_s: float) -> list[Text]:
    """Draw the figures, a line each."""
    service = snapshot.service
    small = max(6, min(_SMALL, width // 8))
    return [
        _line("grid", _grid_parts(snapshot, width), width),
        _line("carbon", _carbon_parts(snapshot, bars(footprint_chart(snapshot, window_s, small), 1)[0]), width),
        _line("saved", _saved_parts(snapshot.saved), width),
        _line("p95", _p95_parts(service, bars(latency_chart(snapshot, window_s, small), 1)[0]), width),
        _line("accuracy", _accuracy_parts(service, bars(accuracy_chart(snapshot, window_s, small), 1)[0]), width),
        _line("load", _load_parts(service, bars(rate_chart(snapshot, window_s, small), 1)[0]), width),
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
        _grid_line(now, max(8, width // 5)),
        _source(now),
        f"age {age(now.age_s)}",
        f"{now.kind} of {clean(now.zone)}",
        f"PUE {now.pue:g}",
        f"fallback {now.fallback_level}" if now.fallback_level else None,
    ]


def _grid_line(now: IntensityNow, width: int) -> Text:
    """Draw past and, dimmed behind a bar, what is expected."""
    ahead = now.ahead[: width // 3]
    drawn = sparkline([*now.history[-(width - len(ahead)) :], *ahead], width)
    if not ahead:
        return Text(drawn, style="cyan")
    return Text.assemble(
        (drawn[: -len(ahead)], "cyan"), ("│", "dim"), (drawn[-len(ahead) :], "dim cyan"), f" {BASES[now.ahead_basis]}"
    )


def _source(now: IntensityNow) -> str:
    row = "" if now.trace_index is None else f" row {now.trace_index}"
    return clean(now.source) + row


def _carbon_parts(snapshot: Snapshot, drawn: Text) -> list[Text | str | None]:
    per = snapshot.per_request
    now = Text(f"{grams(per.measured_g)} a request", style="bold")
    return [
        now,
        f"BASE {grams(per.base_g)} {_in_brackets(change(per.measured_g, per.base_g))}".rstrip(),
        f"right-sized {grams(per.rightsized_g)} {_in_brackets(change(per.measured_g, per.rightsized_g))}".rstrip(),
        None if per.energy_j is None else f"{per.energy_j:.1f} J",
        drawn,
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


def _p95_parts(service: Service, drawn: Text) -> list[Text | str | None]:
    sign, style = STATES[judge(service)]
    head = None if service.headroom_pct is None else f"headroom {service.headroom_pct:.0f} %"
    return [
        Text(f"{p95_text(service)} of {sla(service)}", style="bold"),
        Text(sign, style=style),
        head,
        None if service.late_pct is None else f"late {percent(service.late_pct)}",
        drawn,
        Text(f"last {age(service.window_s)}", style="dim") if service.window_s else None,
    ]


def p95_text(service: Service) -> str:
    """Write the p95."""
    return milliseconds(service.p95_ms, unbounded=service.p95_unbounded)


def sla(service: Service) -> str:
    """Write the promise."""
    return "SLA unknown" if service.sla_p95_ms is None else f"{service.sla_p95_ms:.0f} ms"


def _accuracy_parts(service: Service, drawn: Text) -> list[Text | str | None]:
    best = service.largest_accuracy_pct
    against = "" if best is None else f" of {best:.2f} % {_in_brackets(_loss(service.accuracy_pct, best))}".rstrip()
    return [Text(f"{percent(service.accuracy_pct, 2)}{against}", style="bold"), drawn]


def _load_parts(service: Service, drawn: Text) -> list[Text | str | None]:
    rate = "-" if service.rate_rps is None else f"{service.rate_rps:.1f}/s"
    planned = "" if service.planned_rps is None else f" (plan {service.planned_rps:.1f})"
    return [
        Text(f"{rate}{planned}", style="bold"),
        None if service.waiting is None else f"{service.waiting} waiting",
        f"{service.in_flight} in work",
        drawn,
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
    """Say where the joules come from."""
    return "" if snapshot.energy_source is None else f"energy {clean(snapshot.energy_source)}"
