"""A change of a fleet under load with real processes on a real server: rolled, and all at once as the original does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from clover.agents.fleet import make_fleet
from clover.catalog import load_service
from clover.core.configuration import GpuConfiguration, InstanceKind
from clover.sim.rolling.change import rolling_change
from clover.sim.rolling.settings import RollingSettings, capacity, highest_rate

SHIPPED = Path(__file__).parents[2] / "clover" / "data" / "profiles" / "a100-40gb" / "albert.json"
WHOLE = GpuConfiguration((InstanceKind("7g", "base"),))
HALVES = GpuConfiguration((InstanceKind("3g", "base"),) * 2)


def quick_table(folder: Path) -> Path:
    """Write the shipped table with a short change, so that a test need not take minutes."""
    table = json.loads(SHIPPED.read_text())
    table["change"] |= {"create_s": 0.2, "destroy_s": 0.2, "worker_start_s": 1.0, "provenance": "shortened for a test"}
    path = folder / "albert.json"
    path.write_text(json.dumps(table))
    return path


def test_the_highest_load_within_the_sla_lies_below_capacity() -> None:
    model = load_service("albert", "a100-40gb")
    fleet = make_fleet(backend="sim", board="a100-40gb", model=model)
    seven = highest_rate(fleet, WHOLE, 7, model.table.sla_p95_ms)
    eight = highest_rate(fleet, WHOLE, 8, model.table.sla_p95_ms)
    assert 0.0 < seven < eight < capacity(fleet, WHOLE, 8)


@pytest.mark.slow
def test_a_rolled_change_is_not_felt_and_the_original_way_is(tmp_path: Path) -> None:
    path = quick_table(tmp_path)
    model = load_service("albert", "a100-40gb", path=path)
    fleet = make_fleet(backend="sim", board="a100-40gb", model=model)
    settings = RollingSettings(
        folder=tmp_path,
        fleet=fleet,
        gpus=(2, 2),
        layouts=(WHOLE, HALVES),
        rate_rps=0.35 * capacity(fleet, WHOLE, 4),
        lead_s=1.0,
        profile=path,
    )
    rows = asyncio.run(rolling_change(settings))
    assert [(row["way"], row["to"]) for row in rows] == [
        (way, str(layout)) for way in ("rolling", "original") for layout in (HALVES, WHOLE)
    ]
    rolled, original = rows[:2], rows[2:]
    for row in rows:
        assert row["requests"]["sent"] > 0
        assert row["requests"]["lost"] == row["requests"]["failed"] == 0
        assert row["mig_changes"] == 12
    # Times on a busy machine vary; that a fleet which stops altogether is felt, and a rolled one far less, does not.
    assert min(row["late_pct"] for row in original) > 3.0 * max(row["late_pct"] for row in rolled)
