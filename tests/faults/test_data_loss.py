"""Faults that take the server's data away: each loss is detected and has an outcome with its cause; service is back."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from small_deployment import BACK_WITHIN_S, SmallDeployment, small_deployment
from support import eventually, persistently, run

from clover.core.outcome import ProducerOutcome
from clover.sim.faults.checker import Verdict
from clover.sim.faults.history import Acted, Ended, now_ms

LIMIT_S = 110.0


def judged(verdict: Verdict) -> None:
    assert verdict.kept, str(verdict)
    counts = verdict.counts
    assert counts["invoked"] > 10
    assert counts["invoked"] == sum(counts[outcome.value] for outcome in ProducerOutcome)


async def plan_is_back(deployment: SmallDeployment, epoch: int) -> None:
    """A plan is in force again, under an epoch that nodes take."""

    async def back() -> bool:
        plan = await deployment.in_force()
        return plan is not None and plan.epoch > epoch

    await eventually(back, limit_s=60.0)


def last_epoch(deployment: SmallDeployment) -> int:
    return max(record.epoch for record in deployment.history.records if isinstance(record, Acted))


def test_flushall(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with small_deployment(tmp_path) as deployment:
            epoch = last_epoch(deployment)
            began_ms = now_ms()
            await deployment.server.flush()
            await deployment.broken("server.flush", began_ms)
            assert await deployment.service_is_back(now_ms()) < BACK_WITHIN_S
            await plan_is_back(deployment, epoch)
            assert "intensity" in await deployment.bus.carbon_now()
            judged(await deployment.finish())

    with caplog.at_level(logging.ERROR):
        run(test(), limit_s=LIMIT_S)
    assert "the server has lost data" in caplog.text
    assert "the server has lost the plan" in caplog.text


def test_kill_9_without_an_append_only_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with small_deployment(tmp_path, durable=False) as deployment:
            epoch = last_epoch(deployment)
            began_ms = now_ms()
            await deployment.server.kill()
            await asyncio.sleep(0.5)
            await deployment.server.restart()
            await deployment.broken("server.kill", began_ms)
            assert await deployment.service_is_back(now_ms()) < BACK_WITHIN_S
            await plan_is_back(deployment, epoch)
            judged(await deployment.finish())

    with caplog.at_level(logging.ERROR):
        run(test(), limit_s=LIMIT_S)
    assert "the server has lost data" in caplog.text


def test_trim_under_pending(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        # Twice as much as the node can do: requests wait, and are there to be trimmed.
        async with small_deployment(tmp_path, rate_rps=140.0) as deployment:
            await eventually(lambda: _waiting(deployment, 30), limit_s=30.0)
            began_ms = now_ms()
            removed = await deployment.unread()
            await deployment.server.command("XTRIM", deployment.keys.requests, "MAXLEN", 0)
            await deployment.broken("trim", began_ms)
            assert await deployment.service_is_back(now_ms()) < BACK_WITHIN_S
            verdict = await deployment.finish()
            judged(verdict)
            ends = {record.id: record for record in deployment.history.records if isinstance(record, Ended)}
            failed = [one for one in ends.values() if one.outcome is ProducerOutcome.FAILED]
            # Those in work are answered by whoever holds them; all others were lost, and their producer is told why.
            assert 20 <= len(failed) <= len(removed) + 140 * (now_ms() - began_ms) / 1e3
            assert all("trimmed" in one.reason or "deleted" in one.reason for one in failed), failed[0]

    with caplog.at_level(logging.ERROR):
        run(test(), limit_s=LIMIT_S)
    assert "requests were trimmed or deleted unanswered" in caplog.text


async def _waiting(deployment: SmallDeployment, number: int) -> bool:
    return (await deployment.bus.queue()).waiting >= number


def test_disk_full_then_kill_9(tmp_path: Path) -> None:
    """While the disk is full nothing is acknowledged; what was acknowledged last may not be on it."""

    async def test() -> None:
        async with small_deployment(tmp_path) as deployment:
            began_ms = now_ms()
            async with deployment.server.disk_full():
                await eventually(lambda: _refuses(deployment), limit_s=30.0)
                await asyncio.sleep(1.0)
            # With room again the server writes its log on and takes writes.
            await persistently(lambda: deployment.bus.beat("test"), limit_s=60.0)
            await deployment.server.kill()
            await deployment.server.restart()
            await deployment.broken("server.disk", began_ms)
            assert await deployment.service_is_back(now_ms()) < BACK_WITHIN_S
            judged(await deployment.finish())

    run(test(), limit_s=LIMIT_S)


async def _refuses(deployment: SmallDeployment) -> bool:
    answer = await deployment.server.command("INFO", "persistence")
    return b"aof_last_write_status:err" in answer
