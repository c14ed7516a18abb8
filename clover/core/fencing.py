"""GPUs that fail to change, or fail again and again, are fenced off until they have been healthy for a while. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from clover.core.configuration import GpuId

#: A GPU that has not reached its target after this long is fenced off.
CHANGE_PATIENCE_S = 120.0
#: A GPU that says that it failed may try again for this long.
FAILED_PATIENCE_S = 20.0
#: So many failures within the window are a crash loop, however quickly the GPU is back each time.
LOOP_FAILURES, LOOP_WINDOW_S = 3, 300.0
#: Healthy for so long, and it comes back; twice as long after each further fence, up to the most.
HEALTHY_FIRST_S, HEALTHY_MOST_S = 30.0, 1800.0

_SETTLED = frozenset({"serving", "parked", "off"})


def settled(phase: str) -> bool:
    """Return whether a phase is one that a GPU may stay in."""
    return phase in _SETTLED


@dataclass(slots=True)
class _Health:
    phase: str = ""
    #: Since when it is neither settled nor without a target.
    unsettled_s: float | None = None
    #: How much longer it may be so: as long as a power command may take that its change needs.
    allowed_s: float = 0.0
    failed_s: float | None = None
    failures: deque[float] = field(default_factory=deque[float])
    fences: int = 0
    fenced: bool = False
    healthy_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fenced:
    """A GPU that was fenced off (`back` False) or has come back, and why."""

    gpu: GpuId
    back: bool
    reason: str


class Fence:
    """Keeps the health of every GPU and decides which are fenced off."""

    def __init__(self) -> None:
        self._health: dict[GpuId, _Health] = {}

    @property
    def fenced(self) -> frozenset[GpuId]:
        """GPUs that plans are made without."""
        return frozenset(gpu for gpu, health in self._health.items() if health.fenced)

    def restore(self, gpus: Iterable[GpuId]) -> None:
        """Fence off what another controller had fenced off."""
        for gpu in gpus:
            self._health[gpu] = _Health(fenced=True, fences=1, reason="as the controller before left it")

    def forget(self, gpus: Iterable[GpuId]) -> None:
        """Forget GPUs of a node that is lost; it begins anew when it returns."""
        for gpu in list(gpus):
            self._health.pop(gpu, None)

    def see(self, gpu: GpuId, phase: str, reason: str, now_s: float, *, allowed_s: float = 0.0) -> None:
        """Take in what a GPU says of itself; `allowed_s` is what a power command of its change may take besides."""
        health = self._health.setdefault(gpu, _Health())
        health.allowed_s = allowed_s
        if phase == "failed" and health.phase != "failed":
            health.failures.append(now_s)
            health.failed_s = now_s
            health.reason = reason
        if phase != "failed":
            # It is trying again; whether that helps is told by the number of failures.
            health.failed_s = None
        if settled(phase) or phase == "empty":
            health.unsettled_s = None
        elif health.unsettled_s is None:
            health.unsettled_s = now_s
        health.phase = phase
        if not settled(phase):
            health.healthy_s = None
        elif health.healthy_s is None:
            health.healthy_s = now_s
        while health.failures and now_s - health.failures[0] > LOOP_WINDOW_S:
            health.failures.popleft()

    def refuse(self, gpu: GpuId, reason: str) -> Fenced:
        """Fence off a GPU whatever it says of itself: it has not done what its target says."""
        return self._fence(gpu, self._health.setdefault(gpu, _Health()), reason)

    def judge(self, now_s: float, *, heard: int) -> list[Fenced]:
        """Fence off what is broken and let back what is healthy; the last GPU of the `heard` ones always stays."""
        changes: list[Fenced] = []
        for gpu in sorted(self._health):
            health = self._health[gpu]
            if health.fenced:
                changes += self._let_back(gpu, health, now_s)
            elif (reason := self._broken(health, now_s)) and heard - len(self.fenced) > 1:
                changes.append(self._fence(gpu, health, reason))
        return changes

    def spent(self, gpu: GpuId, now_s: float) -> str:
        """Return why a GPU would be fenced off if it were not the last, and let it begin anew; empty if it is sound."""
        health = self._health.get(gpu)
        reason = self._broken(health, now_s) if health is not None else ""
        if health is not None and reason:
            health.failures.clear()
            health.failed_s = health.unsettled_s = None
        return reason

    def _broken(self, health: _Health, now_s: float) -> str:
        told = f": {health.reason}" if health.reason else ""
        if len(health.failures) >= LOOP_FAILURES:
            return f"failed {len(health.failures)} times within {LOOP_WINDOW_S:.0f} s{told}"
        if health.failed_s is not None and now_s - health.failed_s > FAILED_PATIENCE_S:
            return f"failed for {now_s - health.failed_s:.0f} s{told}"
        if health.unsettled_s is not None and now_s - health.unsettled_s > CHANGE_PATIENCE_S + health.allowed_s:
            return f"not ready after {now_s - health.unsettled_s:.0f} s ({health.phase}){told}"
        return ""

    def _fence(self, gpu: GpuId, health: _Health, reason: str) -> Fenced:
        health.fenced = True
        health.fences += 1
        health.healthy_s = None
        health.failures.clear()
        health.failed_s = None
        return Fenced(gpu, back=False, reason=reason)

    def _let_back(self, gpu: GpuId, health: _Health, now_s: float) -> list[Fenced]:
        hold_s = min(HEALTHY_MOST_S, HEALTHY_FIRST_S * 2.0 ** (health.fences - 1))
        if health.healthy_s is None or now_s - health.healthy_s < hold_s:
            return []
        health.fenced = False
        health.reason = ""
        health.failures.clear()
        return [Fenced(gpu, back=True, reason=f"healthy for {now_s - health.healthy_s:.0f} s")]
