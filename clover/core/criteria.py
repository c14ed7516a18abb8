"""Conditions on the figures of a load test, such as `p95>180ms` or `late<5%`. Pure.

CONDITION = METRIC OPERATOR NUMBER [UNIT]
METRIC    = p50 | p90 | p95 | p99 | p99.9                 latency from the due time; ms (the default) or s
          | send.p50 | ... | send.p99.9                   latency from the send time; ms or s
          | lag.p50 | lag.p99 | lag.max                   lag of the generator; ms or s
          | ok | late | expired | shed | failed | lost    requests; without a unit their number, with % their share
          | duplicate                                     requests answered more than once; their number
          | not_ok                                        share of requests without an answer in time; %
          | goodput | accuracy                            %
          | rate | goodput_rate                           requests/s
          | energy                                        J per request of the whole deployment
          | carbon                                        g (the default) or mg per request of the whole deployment
OPERATOR  = > | >= | < | <=
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clover.core.load_report import QUANTILES
from clover.errors import ConfigurationError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_MS = {"": 1.0, "ms": 1.0, "s": 1000.0}
_PCT = {"": 1.0, "%": 1.0}
_COUNTS = {"ok": "ok", "late": "late", "expired": "expired", "shed": "overloaded", "failed": "failed", "lost": "lost"}
_UNITS: dict[str, dict[str, float]] = {
    **dict.fromkeys(QUANTILES, _MS),
    **{f"send.{name}": _MS for name in QUANTILES},
    **dict.fromkeys(("lag.p50", "lag.p99", "lag.max"), _MS),
    **dict.fromkeys(_COUNTS, {"": 1.0, "%": 1.0}),
    "duplicate": {"": 1.0},
    **dict.fromkeys(("not_ok", "goodput", "accuracy"), _PCT),
    **dict.fromkeys(("rate", "goodput_rate"), {"": 1.0, "rps": 1.0}),
    "energy": {"": 1.0, "j": 1.0},
    "carbon": {"": 1.0, "g": 1.0, "mg": 1e-3},
}
METRICS = tuple(_UNITS)
_FORM = re.compile(r"\s*([A-Za-z_.0-9]+?)\s*(>=|<=|>|<)\s*([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition on one figure.

    Attributes:
        text: As it was given.
        metric: Which figure.
        share: Whether a count is meant as a share of what was sent.
        compare: `>`, `>=`, `<` or `<=`.
        limit: In the metric's own unit: ms, %, requests/s, J, g, or a number.
    """

    text: str
    metric: str
    share: bool
    compare: str
    limit: float

    def holds(self, value: float) -> bool:
        """Return whether a value fulfils it."""
        return _OPERATORS[self.compare](value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A condition and what became of it: `holds` is None if the figure cannot be told, and `why` says why."""

    condition: Condition
    value: float | None
    holds: bool | None
    why: str = ""


def parse_condition(text: str, *, option: str) -> Condition:
    """Read a condition; raises ConfigurationError naming the option, the text and what was expected."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"{option} {text!r}: expected METRIC OPERATOR NUMBER [UNIT] such as 'p95>180ms', 'late>5%' or 'lost>0'"
        )
    metric, compare, number, unit = match[1].lower(), match[2], match[3], match[4].lower()
    if metric not in _UNITS:
        raise ConfigurationError(
            f"{option} {text!r}: metric {metric!r} is unknown, expected one of {', '.join(METRICS)}"
        )
    units = _UNITS[metric]
    if unit not in units:
        known = ", ".join(each for each in units if each) or "none"
        raise ConfigurationError(f"{option} {text!r}: unit {unit!r} does not go with {metric}, expected {known}")
    limit = float(number) * units[unit]
    if limit < 0:
        raise ConfigurationError(f"{option} {text!r}: {number} is below 0")
    return Condition(text=text.strip(), metric=metric, share=unit == "%", compare=compare, limit=limit)


def judge(condition: Condition, figures: dict[str, Any]) -> Judged:
    """Compare a figure of a load test with its limit.

    Args:
        condition: What is asked.
        figures: As `load_figures` returns them, with `energy_j_per_request` and `footprint_g_per_request` if known.
    """
    value, why = _value(condition, figures)
    if value is None:
        return Judged(condition=condition, value=None, holds=None, why=why or "it was not measured")
    return Judged(condition=condition, value=value, holds=condition.holds(value))


def _value(condition: Condition, figures: dict[str, Any]) -> tuple[float | None, str]:
    metric = condition.metric
    group, _, name = metric.rpartition(".") if metric.startswith(("send.", "lag.")) else ("", "", metric)
    # p99.9 has a point of its own.
    if metric.startswith("send."):
        group, name = "send", metric.removeprefix("send.")
    if name in QUANTILES and group != "lag":
        return _quantile(figures["latency_from_send" if group == "send" else "latency_from_due"][name])
    if group == "lag":
        return figures["dispatch_lag"][f"{name}_ms"], ""
    if metric in _COUNTS:
        count = figures["requests"][_COUNTS[metric]]
        sent = figures["requests"]["sent"]
        return (100.0 * count / sent if sent else None, "nothing was sent") if condition.share else (count, "")
    if metric == "duplicate":
        return figures["requests"]["duplicate"], ""
    return figures.get(_PLAIN[metric]), ""


_PLAIN = {
    "not_ok": "late_pct",
    "goodput": "goodput_pct",
    "accuracy": "accuracy_pct",
    "rate": "rate_rps",
    "goodput_rate": "goodput_rps",
    "energy": "energy_j_per_request",
    "carbon": "footprint_g_per_request",
}


def _quantile(found: dict[str, Any]) -> tuple[float | None, str]:
    if found["ms"] is None and found["note"].startswith("without bound"):
        return float("inf"), ""
    return found["ms"], found["note"]
