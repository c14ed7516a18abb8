"""Computes the tables of docs/results.md and writes the page: `python -m clover.analysis.results`.

The short tables take minutes; the ladder over a year has its own command (`--year`, with `--long-traces` or
CLOVER_LONG_TRACES). Parts are kept in the work folder, so that a run goes on where it was broken off; `--fresh` begins
anew. The page says what is in no part; rows of the year come from their file then. All is deterministic.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from clover.analysis import (
    acceptance,
    ladder,
    ladder_parts,
    meaning,
    page,
    paper,
    parking,
    parking_page,
    plots,
    sensitivity,
    work,
)
from clover.analysis.experiment import LEAST_SEEDS
from clover.analysis.row_files import flat_ladder_row, read_ladder_rows, write_rows
from clover.plan.following import KEPT_WITHIN

_NO_YEAR = "Not computed for this page: the ladder ran on the short traces only.\n"
_GROUPS = ("paper", "ladder", "acceptance", "sensitivity")


def parts_of(groups: Sequence[str], long_traces: str | None) -> dict[str, work.Part]:
    """Return all parts of some groups by name."""
    parts: dict[str, work.Part] = {}
    # What takes longest is begun first, so that no process waits for another at the end.
    if "ladder" in groups:
        parts |= _named("ladder", ladder_parts.short, ladder_parts.all_keys())
    if "sensitivity" in groups:
        parts |= _named("sensitivity", sensitivity.run, sensitivity.all_keys())
    if "paper" in groups:
        parts |= _named("paper", paper.run, paper.all_keys())
    if "acceptance" in groups:
        parts |= _named("gap", acceptance.gap, acceptance.gap_keys())
        parts |= _named("parking", parking.parking, parking.parking_keys())
        parts |= _named("number", parking.by_number, parking.number_keys())
        parts |= _named("rightsized", acceptance.rightsized_proof, acceptance.rightsized_keys())
    if long_traces and "sensitivity" in groups:
        parts |= _named("forecast", sensitivity.forecast, sensitivity.all_keys(), long_traces)
    if long_traces and "year" in groups:
        parts |= _named("year", ladder_parts.year, ladder_parts.all_keys(), long_traces)
    return parts


def _named(
    kind: str, function: Callable[..., dict[str, Any]], keys: Sequence[tuple[Any, ...]], *more: str
) -> dict[str, work.Part]:
    """Name the parts of a kind by their keys, such as `gap-albert-10-0.1`."""
    named: dict[str, work.Part] = {}
    for key in keys:
        words = (f"{value:g}" if isinstance(value, float) else str(value) for value in key)
        named["-".join((kind, *words))] = (function, (*key, *more))
    return named


def write_page(parts: page.Parts, docs: Path) -> None:
    """Write results.md, its pictures and the rows of the 54 cases."""
    template = (resources.files("clover") / "data" / "results.md").read_text()
    missing, parts = _missing(parts), _with_year(parts, docs)
    found = page.paper_parts(parts)
    short, year = page.ladder_rows(parts, "ladder"), page.ladder_rows(parts, "year")
    plots.draw_all(docs / "results", paper=found, ladder=short)
    if found:
        write_rows(docs / "results" / "paper.csv", [row for part in found for row in part["rows"]])
    for name, rows in (("ladder", short), ("year", year)):
        if rows and not (name == "year" and page.year_is_earlier(parts)):
            write_rows(docs / "results" / f"{name}.csv", [flat_ladder_row(row) for row in rows])
    text = template.format(
        **_fields(parts),
        summary=meaning.summary(parts),
        missing=missing,
        kept=KEPT_WITHIN,
        seeds=LEAST_SEEDS,
        host=ladder.HOST_W,
        draws=ladder.DRAWS,
    )
    (docs / "results.md").write_text(text)


def _fields(parts: page.Parts) -> dict[str, str]:
    """Return the fields that are made of parts, but for the summary."""
    short, year = page.ladder_rows(parts, "ladder"), page.ladder_rows(parts, "year")
    return {
        "paper": page.paper_way(parts),
        "check": page.check(parts),
        "parking": parking_page.parking(parts),
        "numbers": parking_page.numbers(parts),
        "idle": parking_page.idle_watts(parts),
        "proofs": page.rightsized_proofs(parts),
        "gaps": page.gaps(parts),
        "ladder": page.ladder_table(_shown(short)),
        "zero": page.zero_watts(short),
        "year": (page.year_note(parts) + page.ladder_table(_shown(year))) if year else _NO_YEAR,
        "sensitivity": page.sensitivities(parts),
    }


def _shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that the page has room for."""
    return [row for row in rows if row["parked_w"] in {0.0, 25.0} or not row["host_w"]]


def _with_year(parts: page.Parts, docs: Path) -> page.Parts:
    """Add the rows of the year from the last page's file if this page has none; they are marked as such."""
    file = docs / "results" / "year.csv"
    if page.ladder_rows(parts, "year") or not file.is_file():
        return parts
    earlier: page.Parts = {}
    for row in read_ladder_rows(file):
        part = earlier.setdefault(f"year-{row['app']}-{row['lambda']:g}", {"rows": [], "earlier": True})
        part["rows"].append(row)
    return parts | earlier


def _missing(parts: page.Parts) -> str:
    """Say what was not computed."""
    kinds = Counter(name.partition("-")[0] for name in parts_of((*_GROUPS, "year"), "folder"))
    there = Counter(name.partition("-")[0] for name in parts)
    lacking = [f"{kind} {there[kind]} of {wanted}" for kind, wanted in kinds.items() if there[kind] < wanted]
    return f"**Not everything was computed for this page:** {', '.join(lacking)}." if lacking else ""


def _compute(folder: Path, parts: dict[str, work.Part], *, processes: int) -> None:
    """Compute what is missing; tell people, not the page, how long it took."""
    started, done = time.perf_counter(), list[str]()

    def tell(name: str) -> None:
        done.append(name)
        _say(f"{time.perf_counter() - started:6.0f} s  {name}")

    work.run_parts(folder, parts, processes=processes, tell=tell)
    seconds, cpu_s = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    _say(
        f"{len(done)} of {len(parts)} parts computed in {seconds:.0f} s by {processes} processes "
        f"({cpu_s:.0f} s of CPU); the others were there"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute what is asked for and write the page; 10 if the 54 cases do not hold, 0 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=_GROUPS, default=None, help="groups (default: all short ones)")
    parser.add_argument(
        "--parts", nargs="*", default=None, help="only parts whose names begin so, such as paper-albert"
    )
    parser.add_argument("--year", action="store_true", help="the ladder over the year-long series, and nothing else")
    parser.add_argument("--long-traces", default=os.environ.get("CLOVER_LONG_TRACES"), help="folder of the series")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--work", type=Path, default=Path("build/results"), help="folder of finished parts")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page")
    parser.add_argument("--fresh", action="store_true", help="forget finished parts")
    parser.add_argument("--page-only", action="store_true", help="compute nothing: write the page from finished parts")
    given = parser.parse_args(arguments)
    if given.year and not given.long_traces:
        parser.error("--year: expected --long-traces FOLDER or CLOVER_LONG_TRACES")
    if given.fresh:
        shutil.rmtree(given.work, ignore_errors=True)
    groups = ("year",) if given.year else tuple(given.only if given.only is not None else _GROUPS)
    if not given.page_only:
        parts = parts_of(groups, given.long_traces)
        if given.parts is not None:
            parts = {name: part for name, part in parts.items() if name.startswith(tuple(given.parts))}
        _compute(given.work, parts, processes=given.processes)
    finished = work.read_parts(given.work, list(parts_of((*_GROUPS, "year"), given.long_traces or "folder")))
    write_page(finished, given.docs)
    steady = [case for part in page.paper_parts(finished) for case in part["steady"]]
    return 0 if not steady or paper.verdict(steady)["passed"] else 10


if __name__ == "__main__":
    sys.exit(main())
