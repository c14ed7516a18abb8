"""The figures of docs/results-control.md: a day's load with parking, and changes under load.

    python -m clover.sim.control_figures [--work FOLDER] [--only PART] [--page FILE]

Each finished run is a file in the work folder (docs/results/control), kept with the page: runs of 48 hours take long,
and those that are missing may be computed elsewhere or later. Delete a file to compute its run anew. `--only` names a
part (`phase-9`, `reserve-1`, `original`, `rolling`), `--list` tells all runs and which are done. Without `--list` what
is missing is run, then the page is written from what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clover.sim.diurnal import DiurnalSettings, compared, run_diurnal

_HEAD = """\
# Results: control

Written by `make figures-control`. **Everything here is simulated**: the real agents, simulated A100-40GB GPUs, service
times, energy and the cost of changes from the performance table; no GPU was used. Parked watts (25) are an assumption.
Runs of a day's load that were computed for this page: {have} of {of}, each a file of
[results/control](results/control).
"""
_ROLLING_HEAD = """\
## Changes under load

All GPUs of 2 nodes x 4 from 1 x 7g to 7 x 1g of `albert`'s `base` and back, real processes on a real server
(`benchmarks/rolling_change.py`); counted are the requests due between the first command and the last instance ready.
"""
_DIURNAL_HEAD = """\
## A day's load on ten GPUs

CISO March, `albert`, lambda 0.1, 62.5 x (0.55 + 0.45 sin(2 pi (h - phase) / 24)) requests/s, the real agents in virtual
time. A wake-up is charged with 60 s of active idle beside what it is metered with. `worst hour`: highest one-sided 99 %
lower bound of late % of an hour, by batch means.

| run | hours | sent | late % | worst hour | lost | gCO2e | accuracy % | wakes | replans | MIG changes |
|---|---|---|---|---|---|---|---|---|---|---|
"""

_SAVINGS_HEAD = """
The same with parking and without. Limits, set for phase 9: late at most 5 % over the run and by its lower bound in
every hour, at least 12 % of carbon saved, at most 0.15 points of accuracy less, nothing lost. Accuracy is weighed
against carbon by lambda: without parking idle GPUs are paid for anyway, so larger variants on them cost little more.

| run | carbon saved % | accuracy less, points | within the limits |
|---|---|---|---|
"""

PHASES = (3.0, 9.0, 15.0, 21.0)
#: What `make figures-control` compares each phase with, and the run that reserves a GPU.
_MAIN_PHASE = 9.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run and the part that it belongs to."""

    part: str
    name: str
    settings: DiurnalSettings


def runs(hours: float) -> list[Run]:
    """Return all runs of a day's load, the most wanted first."""
    found: list[Run] = []
    for phase in sorted(PHASES, key=lambda one: one != _MAIN_PHASE):
        part = f"phase-{phase:g}"
        settings = DiurnalSettings(hours=hours, phase_h=phase)
        found.append(Run(part, f"{part}-parked-{hours:g}h", settings))
        twin = DiurnalSettings(hours=hours, phase_h=phase, parking="none")
        found.append(Run(part, f"{part}-twin-{hours:g}h", twin))
    found.append(Run("reserve-1", f"reserve-1-{hours:g}h", DiurnalSettings(hours=hours, reserve=1)))
    original = DiurnalSettings(hours=hours, scheme="clover", parking="none")
    found.append(Run("original", f"original-{hours:g}h", original))
    return found


def run_missing(work: Path, wanted: Sequence[Run]) -> None:
    """Run what has no file yet; each is written whole or not at all."""
    for run in wanted:
        path = work / f"{run.name}.json"
        if path.exists():
            continue
        sys.stderr.write(f"{run.name} ...\n")
        result = run_diurnal(run.settings)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result))
        part.rename(path)


def run_rolling(work: Path, script: Path) -> bool:
    """Run the benchmark of changes under load at both loads, if its lines are not there.

    Returns:
        False if a run broke what the benchmark asks of it: its lines are not kept.
    """
    kept = True
    for load in ("capacity", "seven"):
        path = work / f"rolling-{load}.jsonl"
        if path.exists():
            continue
        command = [sys.executable, str(script), "--load", load]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            path.write_text(done.stdout)
        else:
            sys.stderr.write(f"{script.name} --load {load} ended with {done.returncode}, not kept:\n{done.stdout}")
            kept = False
    return kept


def page(work: Path, wanted: Sequence[Run]) -> str:
    """Return the page, with a word for each figure that was not computed."""
    done = {run.name: _read(work / f"{run.name}.json") for run in wanted}
    have = sum(one is not None for one in done.values())
    parts = [
        _HEAD.format(have=have, of=len(done)),
        _rolling_section(work),
        _diurnal_section(wanted, done),
    ]
    return "\n".join(parts)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _rolling_section(work: Path) -> str:
    rows = [
        json.loads(line)
        for load in ("capacity", "seven")
        if (path := work / f"rolling-{load}.jsonl").exists()
        for line in path.read_text().splitlines()
    ]
    if not rows:
        return _ROLLING_HEAD + "\nNot computed for this page.\n"
    table = "\n| load | requests/s | way | to | s | sent | late % | lost | MIG changes |\n" + "|---" * 9 + "|\n"
    for row in rows:
        sent, lost = row["requests"]["sent"], row["requests"]["lost"]
        cells = (row["load"], f"{row['rate_rps']:.1f}", row["way"], row["to"], f"{row['seconds']:.0f}", sent)
        table += _row(*cells, f"{row['late_pct']:.2f}", lost, row["mig_changes"])
    return _ROLLING_HEAD + table


def _diurnal_section(wanted: Sequence[Run], done: dict[str, dict[str, Any] | None]) -> str:
    rows = ""
    for run in wanted:
        result = done[run.name]
        if result is None:
            rows += f"| {run.name} | not computed for this page | | | | | | | | | |\n"
            continue
        worst = max((hour["late_pct_lower"] for hour in result["by_hour"]), default=0.0)
        sent, lost = result["requests"]["sent"], result["requests"]["lost"]
        rows += _row(
            *(run.name, f"{result['hours']:g}", sent, f"{result['late_pct']:.2f}", f"{worst:.2f}", lost),
            *(f"{result['footprint_g']:.0f}", f"{result['accuracy_pct']:.2f}"),
            *(result["wakes"], result["replans"], result["mig_changes"]),
        )
    return _DIURNAL_HEAD + rows + _savings(wanted, done)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def _savings(wanted: Sequence[Run], done: dict[str, dict[str, Any] | None]) -> str:
    rows = ""
    for run in wanted:
        twin_name = run.name.replace("-parked-", "-twin-").replace("reserve-1", f"phase-{_MAIN_PHASE:g}-twin")
        parked, twin = done[run.name], done.get(twin_name)
        if run.settings.parking != "parked" or parked is None or twin is None:
            continue
        told = compared(parked, twin)
        limits = {"lost_none": "lost", "late_kept": "late", "saved_enough": "saving", "accuracy_kept": "accuracy"}
        broken = [name for key, name in limits.items() if not told[key]]
        rows += _row(
            *(run.name, f"{told['saved_pct']:.1f}", f"{told['accuracy_lost_points']:.3f}"),
            f"no: {', '.join(broken)}" if broken else "yes",
        )
    return _SAVINGS_HEAD + rows if rows else ""


def main() -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m clover.sim.control_figures", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--work", type=Path, default=Path("docs/results/control"), help="folder of finished runs")
    parser.add_argument("--hours", type=float, default=48.0)
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", type=Path, default=Path("docs/results-control.md"))
    parser.add_argument("--rolling", type=Path, default=Path("benchmarks/rolling_change.py"), help="the benchmark")
    options = parser.parse_args()
    every = runs(options.hours)
    known = {run.part for run in every} | {"rolling", "page"}
    if unknown := set(options.only) - known:
        parser.error(f"--only {', '.join(sorted(unknown))}: expected one of {', '.join(sorted(known))}")
    options.work.mkdir(parents=True, exist_ok=True)
    if options.list:
        for run in every:
            there = (options.work / f"{run.name}.json").exists()
            sys.stdout.write(f"{run.part} {run.name} {'done' if there else 'missing'}\n")
        return 0
    kept = True
    if not options.only or "rolling" in options.only:
        kept = run_rolling(options.work, options.rolling)
    run_missing(options.work, [run for run in every if not options.only or run.part in options.only])
    options.page.write_text(page(options.work, every))
    return 0 if kept else 10


if __name__ == "__main__":
    sys.exit(main())
