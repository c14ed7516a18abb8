"""What the dashboard's charts show: grid, gCO2e per request, p95, accuracy, load, power."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from cli.dashboard_charts import Chart, columns_of
from cli.dashboard_text import grams, milliseconds, percent
from clover.analysis.view_past import Slot
from clover.analysis.view_state import Snapshot

#: What is drawn behind the present intensity, in a word or two.
BASES = {"published": "forecast", "yesterday": "as yesterday", "trace": "trace to come"}


def charts_of(snapshot: Snapshot, window_s: float, width: int) -> list[Chart]:
    """Return the charts of a deployment for blocks of this width, the most important first."""
    others = (footprint_chart, latency_chart, accuracy_chart, rate_chart, power_chart)
    return [grid_chart(snapshot, width), *(chart(snapshot, window_s, width) for chart in others)]


def grid_chart(snapshot: Snapshot, width: int) -> Chart:
    """Draw the intensity, and what is expected of it; a value per published interval, whatever the window."""
    now = snapshot.intensity
    if now is None:
        return Chart(title="grid", now="not known yet")
    ahead = now.ahead[: width // 3]
    past = now.history[-max(1, width - len(ahead)) :]
    values, high = [*past, *ahead], [*(None for _ in past), *now.ahead_high[: len(ahead)]]
    # Few values are drawn wide, so that the charts end at the same place.
    drawn = [column * len(values) // width for column in range(width)] if len(values) < width else range(len(values))
    return Chart(
        title="grid",
        now=f"{now.g_per_kwh:.0f} g/kWh" + (f", then {BASES[now.ahead_basis]}" if ahead else ""),
        limit=f"mean {sum(past) / len(past):.0f}",
        columns=[values[index] for index in drawn],
        threshold=sum(past) / len(past),
        style="cyan",
        ahead=sum(index >= len(past) for index in drawn),
        high=[high[index] for index in drawn],
    )


def footprint_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw gCO2e per request against BASE."""
    per = snapshot.per_request
    chart = _of_slots(snapshot, window_s, width, lambda slot: slot.footprint_g)
    limit = f"BASE {grams(per.base_g)}" if per.base_g is not None else ""
    return chart(title="g/request", now=grams(per.measured_g), limit=limit, threshold=per.base_g, over=True)


def latency_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the p95 of every few seconds against the SLA; a column is the worst that it covers."""
    service = snapshot.service

    def p95_ms(slot: Slot) -> float | None:
        return math.inf if slot.p95_unbounded else slot.p95_ms

    return _of_slots(snapshot, window_s, width, p95_ms, worst=True)(
        title="p95",
        now=milliseconds(service.p95_ms, unbounded=service.p95_unbounded),
        limit=f"SLA {service.sla_p95_ms:.0f} ms" if service.sla_p95_ms is not None else "",
        threshold=service.sla_p95_ms,
        over=True,
        style="blue",
    )


def accuracy_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the accuracy served against that of the largest variant."""
    largest = snapshot.service.largest_accuracy_pct
    return _of_slots(snapshot, window_s, width, lambda slot: slot.accuracy_pct)(
        title="accuracy",
        now=percent(snapshot.service.accuracy_pct, 2),
        limit=f"largest {percent(largest, 2)}" if largest else "",
        threshold=largest,
        from_zero=False,
        style="magenta",
    )


def rate_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the requests that end per second against the planned load."""
    rate_rps, planned_rps = snapshot.service.rate_rps, snapshot.service.planned_rps
    return _of_slots(snapshot, window_s, width, lambda slot: slot.rate_rps)(
        title="requests",
        now="-" if rate_rps is None else f"{rate_rps:.1f}/s",
        limit=f"plan {planned_rps:.1f}/s" if planned_rps is not None else "",
        threshold=planned_rps,
        style="yellow",
    )


def power_chart(snapshot: Snapshot, window_s: float, width: int) -> Chart:
    """Draw the power of all GPUs."""
    known = [slot.power_w for slot in snapshot.slots if slot.power_w is not None]
    chart = _of_slots(snapshot, window_s, width, lambda slot: slot.power_w)
    return chart(title="GPU power", now=f"{known[-1] / 1e3:.2f} kW" if known else "-", style="red")


def _of_slots(
    snapshot: Snapshot, window_s: float, width: int, pick: Callable[[Slot], float | None], *, worst: bool = False
) -> Callable[..., Chart]:
    """Return what makes a chart whose columns are the past."""
    return partial(Chart, columns=columns_of(snapshot.slots, window_s, width, pick, worst=worst))
