"""Does the archive agree with what others counted? Sums over rows beside counters of producers, ledger and summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from clover.analysis.load import Run
from clover.analysis.logs.frames import polars

#: Two sums of the same joules differ by rounding at most.
_RELATIVE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        name: What is compared.
        rows: From the rows of the archive.
        counted: By the one who counted; None if nobody did.
        agree: Whether they are equal; None if there is nothing to compare with.
        note: What a difference means.
    """

    name: str
    rows: float
    counted: float | None
    agree: bool | None
    note: str = ""


def reconcile(run: Run) -> list[Check]:
    """Compare the tables of a run with the counters of its producers, its ledger and its summary."""
    return [*_requests(run), *_summary(run), *_ledger(run), _gaps(run)]


def outcomes_of(run: Run) -> dict[str, int]:
    """Return how many requests ended how, from the rows."""
    return outcomes_in(run.frame("requests"))


def outcomes_in(requests: Any) -> dict[str, int]:
    """Return how many of the given requests ended how."""
    pl = polars()
    return dict(requests.group_by("outcome").agg(pl.len()).sort("outcome").iter_rows())


def _equal(name: str, rows: float, counted: float | None, note: str = "") -> Check:
    agree = None if counted is None else abs(rows - counted) <= _RELATIVE * max(abs(rows), abs(counted))
    return Check(name=name, rows=rows, counted=counted, agree=agree, note="" if agree else note)


def _requests(run: Run) -> Iterator[Check]:
    requests = run.frame("requests")
    yield _equal("requests.distinct_ids", requests.height, requests["id"].n_unique(), "an id ended twice")
    own = {name: frame for (name,), frame in requests.group_by("producer")}
    finished = _finished(run)
    for producer in sorted({*own, *finished}):
        rows = own[producer] if producer in own else requests.clear()
        says = finished.get(producer, {})
        sent = says.get("sent")
        note = "its producer has not finished" if sent is None else "requests without a record, see the gaps"
        unwritten = says.get("unwritten_records", 0)
        yield _equal(f"requests.sent[{producer}]", rows.height + unwritten, sent, note)


def _finished(run: Run) -> dict[str, dict[str, Any]]:
    """Return the last words of each generator."""
    pl = polars()
    events = run.frame("events").filter(pl.col("kind") == "generator.finished")
    return {row["subject"]: orjson.loads(row["data"]) for row in events.iter_rows(named=True)}


def _summary(run: Run) -> Iterator[Check]:
    summary = run.document("summary.json") or {}
    counts = summary.get("requests")
    if not isinstance(counts, dict):
        return
    rows = outcomes_in(_accounted(run, summary))
    for outcome, counted in counts.items():
        if outcome == "sent":
            yield _equal("summary.sent", sum(rows.values()), counted)
        elif outcome != "duplicate":
            yield _equal(f"summary.{outcome}", rows.get(outcome, 0), counted)


def _accounted(run: Run, summary: dict[str, Any]) -> Any:
    """Return the requests that a summary is about: all, or of a load test its own after the warm-up."""
    pl = polars()
    requests = run.frame("requests")
    producers = summary.get("producers")
    if not isinstance(producers, list):
        return requests
    finished = _finished(run)
    begun = {name: finished.get(name, {}).get("counted_from_ms") or 0.0 for name in producers}
    own = requests.filter(pl.col("producer").is_in(producers))
    from_ms = pl.col("producer").replace_strict(begun, default=0.0, return_dtype=pl.Float64)
    return own.filter(pl.col("due_ms") >= from_ms)


def begins_midway(run: Run) -> bool:
    """Return whether an archive began on purpose behind what a deployment had said of itself before."""
    position = run.manifest.feeds.get("tel")
    return position is not None and position.after not in {"", "0", "0-0"}


def _ledger(run: Run) -> Iterator[Check]:
    """Joules of GPUs as the nodes metered them, and answers as they counted them, up to the ledger's last reading."""
    pl = polars()
    ledger = run.frame("ledger")
    if ledger.is_empty() or begins_midway(run):
        # Counters of nodes and of the ledger are cumulative: their beginnings are not in the archive.
        return
    last = ledger.row(-1, named=True)
    power = run.frame("power").filter(pl.col("at_ms") <= last["at_ms"])
    newest = power.group_by("node", "boot_id", "gpu").agg(pl.col("energy_j", "answered").last())
    yield _equal("ledger.energy_j", newest["energy_j"].sum(), last["energy_j"], "the archive misses telemetry")
    yield _equal("ledger.answered", newest["answered"].sum(), last["answered"], "the archive misses telemetry")
    answered = sum(count for outcome, count in outcomes_of(run).items() if outcome in {"ok", "late"})
    yield _equal(
        "requests.answered",
        answered,
        last["answered"],
        "a node that is killed takes with it what it counted since its last telemetry; one that was slow may have been "
        "overtaken",
    )


def _gaps(run: Run) -> Check:
    missing = sum(1 for gap in run.manifest.gaps)
    return Check(
        name="archive.gaps",
        rows=float(missing),
        counted=0.0,
        agree=missing == 0,
        note="entries that were gone before they were read" if missing else "",
    )
