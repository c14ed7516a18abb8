"""What the tables of the results page say, in sentences made from the same figures as the tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from clover.analysis import ladder, page, paper
from clover.analysis.cases import APPLICATIONS
from clover.analysis.ladder_parts import LAMBDAS

Row = dict[str, Any]
_WATTS = 25.0


def summary(parts: page.Parts) -> str:
    """Return the sentences about what was computed, as a list."""
    short, year = page.ladder_rows(parts, "ladder"), page.ladder_rows(parts, "year")
    steady = [case for part in page.paper_parts(parts) for case in part["steady"]]
    years = "two years, computed for an earlier page" if page.year_is_earlier(parts) else "two years"
    lines = [
        *_rightsizing(short),
        *_following("three 48-hour traces", short),
        *_following(years, year),
        *_year_weeks(year),
        *_watts(short),
        *_host(short),
        *_paper(parts),
        *_exact(steady),
        *_gaps(parts),
    ]
    return "\n".join(f"* {text}" for text in lines) + "\n" if lines else "Not computed.\n"


def _span(values: Iterable[float], *, digits: int = 1) -> str:
    known = list(values)
    low, high = page.fixed(min(known), digits), page.fixed(max(known), digits)
    return f"{low} %" if low == high else f"{low} to {high} %"


def _plain(rows: Sequence[Row], *, watts: float = _WATTS, host: bool = False) -> list[Row]:
    return [row for row in rows if row["parked_w"] == watts and (row["host_w"] > 0.0) == host]


def _saved(rung: str) -> Callable[[Row], float]:
    return lambda row: row["saved_pct"][rung]


def _rightsizing(rows: Sequence[Row]) -> list[str]:
    text: list[str] = []
    for lambda_ in LAMBDAS:
        own = [row for row in _plain(rows) if row["lambda"] == lambda_]
        if own:
            text.append(
                f"At lambda {lambda_:g}, ten GPUs at 1x, parked at {_WATTS:g} W, `exact` with parking saves "
                f"{_span(map(_saved('exact'), own))} against BASE for "
                f"{_span(r['accuracy_loss_pct'] for r in own)} less accuracy. Of that, parking alone gives "
                f"{_span(map(_saved('base_rightsized'), own))} at no loss, and "
                f"plans that never look at the grid give {_span(map(_saved('static'), own))} at the same accuracy."
            )
    return text


def _following(what: str, rows: Sequence[Row]) -> list[str]:
    own = _plain(rows)
    if not own:
        return []
    about_none = sum(abs(row["following_g_pct"]) < 0.05 for row in own)
    timing = [row["following_g_pct"] - row["following_kwh_pct"] for row in own]
    return [
        (
            f"Following the grid is worth {_span((r['following_g_pct'] for r in own), digits=2)} of the carbon "
            f"that is left, on {what}, parked at {_WATTS:g} W; it is about 0 in {about_none} of {len(own)} "
            f"cases. The energy it saves is {_span((r['following_kwh_pct'] for r in own), digits=2)} "
            f"of the kWh: what there is comes from timing ({_span(timing, digits=2)}), not from using less."
        )
    ]


def _year_weeks(rows: Sequence[Row]) -> list[str]:
    own = [row for row in _plain(rows) if row["interval_95_pct"]]
    if not own:
        return []
    widest = max(own, key=lambda row: row["following_g_pct"])
    low, high = widest["interval_95_pct"]["following"]
    # As far as the table shows it: sums in floating point are not 0 where following changes nothing.
    shown = [[round(end, 2) for end in row["interval_95_pct"]["following"]] for row in own]
    gains, losses = sum(ends[0] > 0.0 for ends in shown), sum(ends[1] < 0.0 for ends in shown)
    return [
        (
            f"Over a year the greatest of these gains is {widest['following_g_pct']:.2f} % ({widest['app']}, "
            f"{widest['trace']}, lambda {widest['lambda']:g}; 95 % by whole weeks {low:.2f} to {high:.2f} %); "
            f"the interval lies above 0 in {gains} of {len(own)} cases, below 0 in {losses}."
        )
    ]


def _watts(rows: Sequence[Row]) -> list[str]:
    gone: list[str] = []
    for app in APPLICATIONS:
        gains = _by_watts([r for r in rows if r["app"] == app and not r["host_w"]], "base", "base_rightsized")
        if len(gains) > 1:
            found = ladder.zero_watts(gains)
            gone.append(f"{app} {f'above {max(gains):g} W' if found is None else f'{found:.1f} W'}")
    return [f"What parking gives BASE is gone when a parked GPU draws: {', '.join(gone)}."] if gone else []


def _by_watts(rows: Sequence[Row], low: str, high: str) -> dict[float, float]:
    watts = sorted({row["parked_w"] for row in rows})
    return {
        w: statistics.fmean(r["saved_pct"][high] - r["saved_pct"][low] for r in rows if r["parked_w"] == w)
        for w in watts
    }


def _host(rows: Sequence[Row]) -> list[str]:
    without, with_host = _plain(rows), _plain(rows, host=True)
    if not without or not with_host:
        return []
    return [
        (
            f"With {ladder.HOST_W:g} W of host per node on every rung the same plans save "
            f"{_span(map(_saved('exact'), with_host))} instead of {_span(map(_saved('exact'), without))}."
        )
    ]


def _paper(parts: page.Parts) -> list[str]:
    rows = [
        r for part in page.paper_parts(parts) for r in part["rows"] if r["scheme"] == "exact" and part["load"] == 5.0
    ]
    fair = [
        r for part in page.paper_parts(parts) for r in part["rows"] if r["scheme"] == "exact" and part["load"] == 1.0
    ]
    if not rows or not fair:
        return []
    return [
        (
            "The paper's way flatters: on two GPUs at 5x `exact` saves "
            f"{_span(r['saved_pct_original_way'] for r in rows)} against BASE at BASE's own load, "
            "most of it because idle power is shared by five times the requests. At 1x, where BASE keeps the SLA, "
            f"it saves {_span(r['saved_pct'] for r in fair)} at the same load."
        )
    ]


def _exact(steady: Sequence[Row]) -> list[str]:
    if not steady:
        return []
    found = paper.verdict(list(steady))
    against = found["against"]
    text = ", ".join(
        f"{name} {c['gains']} gains / {c['ties']} ties / {c['worse']} worse" for name, c in against.items()
    )
    hard = paper.hard_case_gain(list(steady))
    more = "" if hard is None else f" Mean gain over `oracle` for yolov5, lambda 0.1, 5x: {hard:.4f}."
    return [f"`exact` in {found['cases']} cases, one evaluator, steady state: {text}.{more}"]


def _gaps(parts: page.Parts) -> list[str]:
    own = [part for name, part in parts.items() if name.startswith("gap-") and part["gap"] is not None]
    if not own:
        return []
    worst = max(own, key=lambda part: part["gap"])
    return [
        (
            f"The largest gap to the bound at 5x without parking is {worst['gap']:.1e} ({worst['app']}, lambda "
            f"{worst['lambda']:g}, {worst['gpus']} GPUs)."
        )
    ]
