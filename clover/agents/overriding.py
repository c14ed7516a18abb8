"""What people have told the controller, as the machine takes it: without what has run out or cannot be."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from clover.agents.translate import gpu_configuration
from clover.bus.messages import Override, Pin
from clover.core.configuration import GpuConfiguration, GpuId
from clover.core.control import OverrideSeen

#: Says why a GPU cannot be configured like this; empty if it can.
Unfit = Callable[[GpuConfiguration], str]

#: Events for people: kind, subject, reason.
Said = list[tuple[str, str, str]]


def in_force(override: Override, now_ms: float) -> Override:
    """Return what of an override has not run out."""
    paused = override.paused and (override.paused_until_ms is None or now_ms < override.paused_until_ms)
    return msgspec.structs.replace(
        override,
        paused=paused,
        paused_until_ms=override.paused_until_ms if paused else None,
        pins=tuple(pin for pin in override.pins if pin.until_ms is None or now_ms < pin.until_ms),
    )


def pinned(pin: Pin) -> GpuConfiguration:
    """Return what a pin says; raises ValueError if that contradicts itself."""
    return gpu_configuration(pin.gpu)


class Overrides:
    """Notices what changes.

    Args:
        unfit: Judges what GPUs are pinned to.
    """

    def __init__(self, unfit: Unfit) -> None:
        self._unfit = unfit
        self._last: OverrideSeen = OverrideSeen()
        self._refused: Said = []

    def take(self, override: Override, now_ms: float) -> tuple[OverrideSeen, Said] | None:
        """Return what is in force from now on and what to say about it; None if nothing changed."""
        now = in_force(override, now_ms)
        said: Said = []
        pins: dict[GpuId, GpuConfiguration] = {}
        for pin in now.pins:
            gpu = GpuId(pin.node, pin.gpu.index)
            problem, configuration = self._read(pin)
            if configuration is None:
                said.append(("override.refused", str(gpu), problem))
            else:
                pins[gpu] = configuration
        seen = OverrideSeen(paused=now.paused, pinned=pins, reason=_reason(now, pins))
        if (seen.paused, seen.pinned) == (self._last.paused, self._last.pinned):
            # What was refused is said once, when it is asked for.
            news = [each for each in said if each not in self._refused]
            self._refused = said
            return (self._last, news) if news else None
        self._refused = said
        self._last = seen
        return seen, [("override.changed", now.by, seen.reason), *said]

    def _read(self, pin: Pin) -> tuple[str, GpuConfiguration | None]:
        try:
            configuration = pinned(pin)
        except ValueError as error:
            return str(error), None
        problem = self._unfit(configuration)
        return problem, None if problem else configuration


def _reason(override: Override, pins: dict[GpuId, GpuConfiguration]) -> str:
    by = override.by or "somebody"
    told = [f"planning is paused by {by}"] if override.paused else []
    if pins:
        told.append(f"{by} pinned " + ", ".join(f"{gpu} to {what}" for gpu, what in sorted(pins.items())))
    if not told:
        return "nothing is paused or pinned" if not override.pins else "what is asked for cannot be"
    return "; ".join([*told, override.reason] if override.reason else told)
