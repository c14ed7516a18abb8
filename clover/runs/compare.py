"""What differs between two runs: settings, what they ran on, and what came of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from clover.runs.record import RunRecord

#: Differ between any two runs, and tell nothing.
_ALWAYS = frozenset({"run", "pid", "pid_started", "started_at", "started_ms", "ended_at", "ended_ms", "run-name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where two runs differ.

    Attributes:
        group: `settings`, `inputs`, `surroundings`, `hardware`, `run` or `summary`.
        name: Dotted path in that group.
        a, b: The values; None if a run has none.
        change_pct: Of figures: 100 x (b - a) / |a|; None otherwise, or if a is 0.
    """

    group: str
    name: str
    a: Any
    b: Any
    change_pct: float | None = None


def compare(
    a: RunRecord, b: RunRecord, summary_a: dict[str, Any] | None, summary_b: dict[str, Any] | None
) -> list[Difference]:
    """Return everything that differs between two runs, causes before effects."""
    found: list[Difference] = []
    for group, of_a, of_b in _groups(a, b, summary_a, summary_b):
        names = list(dict.fromkeys([*of_a, *of_b]))
        found += [
            Difference(group=group, name=name, a=of_a.get(name), b=of_b.get(name), change_pct=_change(of_a, of_b, name))
            for name in names
            if of_a.get(name) != of_b.get(name)
        ]
    return found


def _groups(
    a: RunRecord, b: RunRecord, summary_a: dict[str, Any] | None, summary_b: dict[str, Any] | None
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [
        ("run", _head(a), _head(b)),
        ("settings", _settings(a), _settings(b)),
        ("inputs", _inputs(a), _inputs(b)),
        ("hardware", flattened(msgspec.to_builtins(a.hardware)), flattened(msgspec.to_builtins(b.hardware))),
        ("surroundings", _surroundings(a), _surroundings(b)),
        ("summary", _figures(summary_a), _figures(summary_b)),
    ]


def flattened(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one, with dotted names; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= flattened(item, f"{name}.") if isinstance(item, dict) else {name: item}
    return flat


def _head(record: RunRecord) -> dict[str, Any]:
    return {"command": record.command, "state": record.state, "seed": record.seed, "deployment": record.deployment}


def _settings(record: RunRecord) -> dict[str, Any]:
    return {name: setting.value for name, setting in record.settings.items() if name not in _ALWAYS}


def _inputs(record: RunRecord) -> dict[str, Any]:
    return {each.what: each.sha256 for each in record.inputs}


def _surroundings(record: RunRecord) -> dict[str, Any]:
    return {
        name: value
        for name, value in flattened(msgspec.to_builtins(record.surroundings)).items()
        if name != "arguments"
    }


def _figures(summary: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in flattened(summary or {}).items() if name not in _ALWAYS}


def _change(a: dict[str, Any], b: dict[str, Any], name: str) -> float | None:
    before, after = a.get(name), b.get(name)
    numbers = [x for x in (before, after) if isinstance(x, (int, float)) and not isinstance(x, bool)]
    if len(numbers) < 2 or numbers[0] == 0:
        return None
    return 100.0 * (numbers[1] - numbers[0]) / abs(numbers[0])
