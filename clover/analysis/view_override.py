"""What people have decided over the controller's head, as a dashboard shows it."""

from __future__ import annotations

from collections.abc import Sequence

from clover.analysis.view_state import OverrideNow
from clover.bus.messages import Override, Pin


def override_now(override: Override | None, now_ms: float) -> OverrideNow:
    """Describe what of an override has not run out at a moment."""
    if override is None:
        return OverrideNow()
    paused = override.paused and (override.paused_until_ms is None or now_ms < override.paused_until_ms)
    pins = [pin for pin in override.pins if pin.until_ms is None or now_ms < pin.until_ms]
    return OverrideNow(
        paused=paused,
        paused_left_s=_left_s(override.paused_until_ms, now_ms) if paused else None,
        pinned=tuple(f"{pin.node}/gpu{pin.gpu.index}" for pin in pins),
        pinned_left_s=_last_left_s(pins, now_ms),
        by_hand=override.nodes,
        by=override.by,
        reason=override.reason,
    )


def _last_left_s(pins: Sequence[Pin], now_ms: float) -> float | None:
    ends = [pin.until_ms for pin in pins]
    known = [end for end in ends if end is not None]
    return _left_s(max(known), now_ms) if known and len(known) == len(ends) else None


def _left_s(until_ms: float | None, now_ms: float) -> float | None:
    return None if until_ms is None else (until_ms - now_ms) / 1e3
