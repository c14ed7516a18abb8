"""Host energy from RAPL through the powercap tree of Linux: packages and memory, each counted once.

Counters wrap around after minutes at full power and are readable by root alone on most systems (since CVE-2020-8694).
What cannot be read is unknown, never zero: the difference comes with the next reading that works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clover.power.counter import CounterTracker

POWERCAP = Path("/sys/class/powercap")

_MICRO = 1e-6


@dataclass(slots=True)
class _Zone:
    name: str
    path: Path
    tracker: CounterTracker


class RaplMeter:
    """Joules of all packages and their memory since the meter was made; use `find` to make one."""

    source = "rapl"

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones
        self._total_j = 0.0
        self.read_j()

    @classmethod
    def find(cls, root: Path = POWERCAP) -> RaplMeter | None:
        """Look for zones that can be read; None if there is none (no RAPL, or no permission)."""
        zones = [zone for path in sorted(root.glob("intel-rapl:*")) if (zone := _zone(path)) is not None]
        chosen = [zone for zone in zones if _counts(zone, {other.path.name: other.name for other in zones})]
        # Two trees may show the same counter (intel-rapl-mmio is not looked at, but packages may repeat by name).
        unique: dict[tuple[str, str], _Zone] = {}
        for zone in chosen:
            unique.setdefault((zone.name, _parent(zone.path)), zone)
        return cls(list(unique.values())) if unique else None

    @property
    def zones(self) -> tuple[str, ...]:
        """Names of what is counted."""
        return tuple(zone.name for zone in self._zones)

    def read_j(self) -> float | None:
        """Return joules since the meter was made; None if any zone did not answer this time."""
        complete = True
        for zone in self._zones:
            counter_j = _read_j(zone.path / "energy_uj")
            if counter_j is None:
                complete = False
                continue
            advance = zone.tracker.advance(counter_j)
            if advance is not None:
                self._total_j += advance.energy_j
        return self._total_j if complete else None


def _zone(path: Path) -> _Zone | None:
    range_j, counter_j = _read_j(path / "max_energy_range_uj"), _read_j(path / "energy_uj")
    try:
        name = (path / "name").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if counter_j is None:
        return None
    return _Zone(name=name, path=path, tracker=CounterTracker(range_j))


def _counts(zone: _Zone, known: dict[str, str]) -> bool:
    """Count packages, and memory below one; cores and uncore are inside a package, psys around all of it."""
    if zone.name.startswith("package"):
        return True
    parent = zone.path.name.rpartition(":")[0]
    return zone.name == "dram" and known.get(parent, "").startswith("package")


def _parent(path: Path) -> str:
    """Return what tells zones of one name apart: the package of a memory zone; packages have numbers in their names."""
    return path.name.rpartition(":")[0] if path.name.count(":") > 1 else ""


def _read_j(path: Path) -> float | None:
    try:
        return int(path.read_text()) * _MICRO
    except (OSError, ValueError):
        return None
