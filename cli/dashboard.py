"""The dashboard as a picture: a pure function from a snapshot to a rich renderable."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.output import number

if TYPE_CHECKING:
    from clover.analysis.view import Snapshot
    from clover.bus.messages import GpuTelemetry

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLOURS = ("blue", "green", "magenta", "cyan", "yellow", "red", "bright_blue", "bright_green")
_MEMORY_SLICES = 8
#: Older than this, figures are called stale.
_STALE_S = 5.0
#: Lines that everything but the GPU map and the events needs.
_FIXED_LINES = 13


def status_line(snapshot: Snapshot) -> str:
    """Return the state of the deployment in one line, for where there is no terminal."""
    intensity, plan, totals = snapshot.intensity, snapshot.plan, snapshot.totals
    sla = f"/{plan.sla_p95_ms:g}" if plan else ""
    parts = [
        f"{number(intensity.g_per_kwh if intensity else None, ' g/kWh', 0)}",
        f"{_milligrams(snapshot.grams_per_request)} per request (BASE {_milligrams(snapshot.base_grams)})",
        f"saved {number(totals['saved_pct'], ' %')}",
        f"p95 {number(snapshot.p95_ms, '', 0)}{sla} ms",
        f"accuracy {number(snapshot.accuracy_pct, ' %', 2)}",
        f"{snapshot.rate_rps:.1f} requests/s",
        f"epoch {plan.epoch if plan else '-'} {plan.state if plan else 'starting'}",
        f"lost {totals['requests']['lost']}",
    ]
    return " | ".join([badge(snapshot), *parts] if badge(snapshot) else parts)


def badge(snapshot: Snapshot) -> str:
    """Say where joules come from if nobody measured them."""
    source = snapshot.ledger.energy_source if snapshot.ledger else ""
    if "simulated" in source:
        return "SIM"
    return "ESTIMATE" if "estimate" in source else ""


def render(snapshot: Snapshot, width: int, height: int, *, deployment: str = "clover") -> RenderableType:
    """Draw the dashboard for a terminal of this size."""
    gpus = sum(len(node.gpus) for node in snapshot.nodes.values())
    room = max(3, height - _FIXED_LINES)
    gpu_lines = min(gpus + 1, max(2, room - 4))
    event_lines = max(1, room - gpu_lines - 2)
    return Group(
        _header(snapshot, width, deployment),
        Panel(_figures(snapshot, width - 4), title="now (last minute)", title_align="left", height=7),
        Panel(_map(snapshot, gpu_lines - 1, width - 4), title=f"{gpus} GPUs", title_align="left", height=gpu_lines + 1),
        Panel(_story(snapshot, event_lines, width - 4), title="last decision", title_align="left"),
        Text("q quit", style="dim"),
    )


def _header(snapshot: Snapshot, width: int, deployment: str) -> Text:
    totals, plan = snapshot.totals, snapshot.plan
    text = Text(f"clover {deployment} ", style="bold", no_wrap=True, overflow="ellipsis")
    if badge(snapshot):
        text.append(f" {badge(snapshot)} ", style="black on yellow")
    text.append(f"  saved {number(totals['saved_pct'], ' %')} against BASE", style="bold green")
    text.append(f", {number(totals['saved_pct_rightsized'], ' %')} against right-sized")
    if plan:
        text.append(f"  {plan.application} {plan.scheme} epoch {plan.epoch} {plan.state}")
    if snapshot.silent_s > _STALE_S:
        since = "yet" if snapshot.silent_s == float("inf") else f"for {snapshot.silent_s:.0f} s"
        text.append(f"  no data {since}", style="bold red")
    text.truncate(width, overflow="ellipsis")
    return text


def _figures(snapshot: Snapshot, width: int) -> Table:
    plan, intensity = snapshot.plan, snapshot.intensity
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(20, width - 14))
    age_s = (snapshot.now_ms - intensity.published_at_ms) / 1e3 if intensity else 0.0
    grid = (
        f"{intensity.g_per_kwh:.0f} gCO2e/kWh  {intensity.source}, {age_s:.0f} s old" if intensity else "not known yet"
    )
    table.add_row("grid", f"{grid}  {sparkline(snapshot.history[-max(8, width - 70) :])}")
    carbon = Text(f"{_milligrams(snapshot.grams_per_request)} per request")
    carbon.append(
        f"   BASE {_milligrams(snapshot.base_grams)}, right-sized {_milligrams(snapshot.rightsized_grams)} (modelled)",
        "dim",
    )
    table.add_row("carbon", carbon)
    table.add_row("latency", _latency(snapshot))
    best = plan.base.accuracy_pct if plan else None
    table.add_row("accuracy", f"{number(snapshot.accuracy_pct, ' %', 2)}   best {number(best, ' %', 2)}")
    outcomes = ", ".join(f"{k} {v}" for k, v in snapshot.totals["requests"].items() if v or k in {"ok", "lost"})
    table.add_row("requests", f"{snapshot.rate_rps:.1f}/s   {outcomes}")
    return table


def _latency(snapshot: Snapshot) -> Text:
    plan, p95 = snapshot.plan, snapshot.p95_ms
    if plan is None or p95 is None:
        return Text("-")
    headroom = 100.0 * (1.0 - p95 / plan.sla_p95_ms)
    word, style = (
        ("OK", "green") if headroom >= 5.0 else ("WARN", "yellow") if headroom >= 0.0 else ("SLA BROKEN", "red")
    )
    text = Text(f"p95 {p95:.0f} of {plan.sla_p95_ms:g} ms, headroom {headroom:.0f} %  ")
    text.append(word, style=f"bold {style}")
    text.append(f"   late {number(snapshot.late_pct, ' %', 2)}")
    return text


def _map(snapshot: Snapshot, lines: int, width: int) -> Group:
    variants = sorted({i.variant for node in snapshot.nodes.values() for gpu in node.gpus for i in gpu.instances})
    colours = {variant: _COLOURS[n % len(_COLOURS)] for n, variant in enumerate(variants)}
    rows = [(f"{name}/{gpu.index}", gpu) for name, node in snapshot.nodes.items() for gpu in node.gpus]
    cell = max(3, min(8, (width - 24) // _MEMORY_SLICES))
    shown = rows if len(rows) <= lines else rows[: max(1, lines - 1)]
    drawn = [_gpu_row(name, gpu, colours, cell, width) for name, gpu in shown]
    if len(shown) < len(rows):
        drawn.append(Text(f"... and {len(rows) - len(shown)} more", style="dim"))
    return Group(*drawn)


def _gpu_row(name: str, gpu: GpuTelemetry, colours: dict[str, str], cell: int, width: int) -> Text:
    text = Text(f"{name:<10.10} ", no_wrap=True, overflow="ellipsis")
    at = 0
    for instance in gpu.instances:
        text.append("·" * (cell * max(0, instance.start - at)), style="dim")
        mark = "*" if instance.phase == "busy" else "" if instance.phase == "idle" else "~"
        label = f"{instance.profile}:{instance.variant}{mark}"
        style = (
            f"white on {colours[instance.variant]}" if instance.phase != "starting" else f"{colours[instance.variant]}"
        )
        room = cell * instance.size - 1
        text.append(f"{label:^{room}.{room}}", style=style)
        text.append(" ")
        at = instance.start + instance.size
    text.append("·" * (cell * max(0, _MEMORY_SLICES - at)), style="dim")
    text.append(f" {gpu.phase}", style="" if gpu.phase == "serving" else "yellow")
    text.truncate(width, overflow="ellipsis")
    return text


def _story(snapshot: Snapshot, lines: int, width: int) -> Group:
    drawn: list[Text] = []
    if snapshot.decision is not None:
        data = snapshot.decision.data
        drawn.append(Text(f"{data.get('trigger')}: {snapshot.decision.reason}", style="bold"))
        drawn.append(Text(f"-> {snapshot.decision.subject}, beat {len(data.get('alternatives', ()))} alternatives"))
    for event in reversed(snapshot.events[-max(1, lines - len(drawn)) :]):
        at = datetime.fromtimestamp(event.at_ms / 1e3, tz=UTC).strftime("%H:%M:%S")
        drawn.append(Text(f"{at} {event.kind} {event.subject}: {event.reason}", style="dim"))
    kept = drawn[: max(1, lines)]
    for text in kept:
        text.truncate(width, overflow="ellipsis")
    return Group(*kept)


def sparkline(values: tuple[float, ...]) -> str:
    """Draw values as blocks between their smallest and largest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int((v - low) / span * len(_BLOCKS)))] for v in values)


def _milligrams(grams: float | None) -> str:
    return number(None if grams is None else grams * 1e3, " mg", 2)
