"""Comparing two performance tables as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def figures_of(table: dict[str, Any]) -> dict[str, float]:
    """Return every figure of a table that a planner uses, by its path such as `variants.lite0.service_ms.7g`."""
    planned = {name: value for name, value in table.items() if name not in {"schema", "measurement", "request_batch"}}
    return dict(_numbers(planned, ""))


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per figure of either table: `figure`, `first`, `second`, `change_pct` (None if one lacks it)."""
    one, two = figures_of(first), figures_of(second)
    return [
        {
            "figure": name,
            "first": one.get(name),
            "second": two.get(name),
            "change_pct": _change_pct(one.get(name), two.get(name)),
        }
        for name in dict.fromkeys([*one, *two])
    ]


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _change_pct(first: float | None, second: float | None) -> float | None:
    if first is None or second is None or first == 0.0:
        return None
    return round(100.0 * (second - first) / first, 2)
