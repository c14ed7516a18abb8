"""How GPUs were cut, and what the controller decided, over time."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson

from clover.analysis.load import Run
from clover.analysis.logs.frames import polars
from clover.analysis.report.series import Axis, Change, Fleet, Numbers, Series, axis_of, carbon_of, requests_of
from mig.errors import MigError
from mig.profiles import gpu_model

_SIZE = re.compile(r"(\d+)g")


def series_of(run: Run) -> Series:
    """Return everything of a run over time; what its tables do not hold is left out, with a note."""
    axis = axis_of(run)
    requests = requests_of(run, axis)
    carbon, fleet = carbon_of(run, axis, requests), fleet_of(run, axis)
    notes: list[str] = []
    if carbon is None:
        notes.append("No carbon is shown: the run has no readings of the grid, or none of the ledger.")
    elif carbon.base_g is None:
        notes.append("Nothing is compared with BASE: the run has no plans.")
    if fleet is None:
        notes.append("Partitions are not shown: the run has no telemetry of nodes.")
    return Series(axis=axis, requests=requests, carbon=carbon, fleet=fleet, changes=changes_of(run, axis), notes=notes)


def fleet_of(run: Run, axis: Axis) -> Fleet | None:
    """Return slices by what they are, as last heard of each GPU by the end of each bin."""
    pl = polars()
    power = run.frame("power")
    if power.is_empty():
        return None
    slices = _slices(run)
    heard = power.with_columns(bin=pl.Series(axis.bin_of(power["at_ms"].to_numpy())))
    # Rows are in the order of the stream; a node may tell of itself twice in one moment.
    last = heard.group_by("node", "gpu", "bin", maintain_order=True).last()
    instances = run.frame("instances").join(
        last.select("node", "gpu", "bin", "stream_id"), on=["node", "gpu", "stream_id"], how="inner"
    )
    sizes: dict[tuple[str, int, int], dict[str, int]] = {}
    for node, gpu, place, profile in instances.select("node", "gpu", "bin", "profile").iter_rows():
        cut = sizes.setdefault((node, gpu, place), {})
        name = _short(profile)
        cut[name] = cut.get(name, 0) + _width(profile)
    states = {(node, gpu, place): phase for node, gpu, place, phase in last["node", "gpu", "bin", "phase"].iter_rows()}
    return _filled(axis, slices, states, sizes)


def _filled(
    axis: Axis,
    slices: int,
    states: dict[tuple[str, int, int], str],
    sizes: dict[tuple[str, int, int], dict[str, int]],
) -> Fleet:
    gpus = sorted({key[:2] for key in states})
    found: dict[str, Numbers] = {}
    for node, gpu in gpus:
        now: dict[str, int] = {"not heard of": slices}
        for place in range(axis.bins):
            key = (node, gpu, place)
            if key in states:
                now = _cut(states[key], sizes.get(key, {}), slices)
            for name, width in now.items():
                found.setdefault(name, np.zeros(axis.bins))[place] += width
    return Fleet(slices={name: found[name] for name in sorted(found, key=_rank)}, gpus=len(gpus))


def _cut(phase: str, sizes: dict[str, int], slices: int) -> dict[str, int]:
    if phase in {"parked", "off"}:
        return {phase: slices}
    rest = slices - sum(sizes.values())
    word = "changing" if phase == "changing" else "unallocated"
    return {**sizes, **({word: rest} if rest > 0 else {})}


def _rank(name: str) -> tuple[int, str]:
    match = _SIZE.fullmatch(name)
    return (-int(match[1]) if match else 1, name)


def _short(profile: str) -> str:
    return profile.partition(".")[0]


def _width(profile: str) -> int:
    match = _SIZE.match(profile)
    return int(match[1]) if match else 1


def _slices(run: Run) -> int:
    """Return compute slices of a GPU, by its model."""
    health = run.frame("health")
    try:
        return gpu_model(health["gpu_model"][-1]).compute_slices if not health.is_empty() else 7
    except MigError:
        return 7


def changes_of(run: Run, axis: Axis) -> list[Change]:
    """Return decisions and how long each was being carried out; of those before the run only the one in force."""
    decisions = run.frame("decisions").sort("at_ms")
    plans = run.frame("plans").sort("at_ms")
    steps: dict[int, list[Any]] = {}
    serving: list[float] = []
    for row in plans.iter_rows(named=True):
        if row["state"] == "step":
            steps.setdefault(row["decision"], []).append(row)
        else:
            serving.append(row["at_ms"])
    changes = [_change(row, steps.get(row["decision"], []), serving, axis) for row in decisions.iter_rows(named=True)]
    before = [change for change in changes if change.at_s < 0.0]
    return before[-1:] + changes[len(before) :]


def _change(decision: dict[str, Any], steps: list[Any], serving: list[float], axis: Axis) -> Change:
    rolled = None
    if steps:
        until = next((at for at in serving if at >= steps[-1]["at_ms"]), axis.end_ms)
        rolled = ((steps[0]["at_ms"] - axis.start_ms) / 1e3, (until - axis.start_ms) / 1e3)
    return Change(
        at_s=(decision["at_ms"] - axis.start_ms) / 1e3,
        trigger=decision["trigger"],
        reason=decision["reason"],
        decision=decision["decision"],
        rolled_s=rolled,
        gpus=len({gpu for step in steps for gpu in step["changed"]}),
    )


def producers_say(run: Run) -> dict[str, dict[str, Any]]:
    """Return what each generator said of itself when it began."""
    pl = polars()
    started = run.frame("events").filter(pl.col("kind") == "generator.started")
    return {row["subject"]: orjson.loads(row["data"]) for row in started.iter_rows(named=True)}
