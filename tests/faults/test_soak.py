"""Real processes and a real server under faults of class A: nothing lost, doubled or late, and all drained."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clover.sim.faults.checker import Verdict, check
from clover.sim.faults.history import read_history
from clover.sim.faults.observer import Observer
from clover.sim.faults.rig import Rig, RigSettings
from clover.sim.faults.schedule import Saboteur
from clover.sim.faults.soak import MIX, soak

SEED = 20261124


def nothing_happened_to_anyone(verdict: Verdict, *, least: int) -> None:
    assert verdict.kept, str(verdict)
    counts = verdict.counts
    assert counts["invoked"] > least
    # Overload and expiry are answers, but at this load nobody should need them.
    assert counts["lost"] == counts["duplicate_replies"] == counts["failed"] == 0


@pytest.mark.timeout(400)
def test_a_minute_of_faults(tmp_path: Path) -> None:
    verdict = asyncio.run(soak(RigSettings(folder=tmp_path, seed=SEED, scheme="exact", mix=MIX), seconds=60.0))
    nothing_happened_to_anyone(verdict, least=2000)
    assert verdict.counts["faults"] >= 2


async def _each_once(settings: RigSettings) -> int:
    """Do every fault once, one after another; return how many there are."""
    async with Rig(settings) as rig, asyncio.TaskGroup() as group:
        observer = Observer(rig)
        await rig.start(group)
        watching = group.create_task(observer.watch())
        saboteur = Saboteur(rig, seed=settings.seed)
        for fault in saboteur.faults:
            await fault()
            await asyncio.sleep(1.0)
        await rig.stop_load(limit_s=120.0)
        watching.cancel()
        assert await observer.quiet(limit_s=60.0)
        rig.stop_keeping()
    return len(saboteur.faults)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_fault_of_class_a_once(tmp_path: Path) -> None:
    settings = RigSettings(folder=tmp_path, seed=SEED, scheme="exact", mix=MIX)
    faults = asyncio.run(_each_once(settings))
    verdict = check(read_history(tmp_path))
    nothing_happened_to_anyone(verdict, least=5000)
    assert verdict.counts["faults"] == faults
    assert verdict.counts["repeated_executions"] > 0
