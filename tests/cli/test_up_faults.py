"""`clover up` while its parts are killed and its streams are fed with garbage by hand: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from processes import all_answered, child_of, clover, generating, result_of, up, within

from clover.agents.deployment import read_state
from clover.bus.keys import REGISTRY
from clover.bus.redis import RedisLink


def test_kill_9_of_the_server_loses_nothing(tmp_path: Path) -> None:
    with up(tmp_path, duration="15s") as process:
        within(40, lambda: generating(tmp_path))
        state = read_state(tmp_path, "clover")
        assert state is not None
        os.kill(asyncio.run(_server_pid(state.url)), signal.SIGKILL)
        within(20, lambda: _kinds(tmp_path, "server"))
        result = result_of(process)
    all_answered(result)
    assert result["saved_pct"] == pytest.approx(result["predicted"]["saved_pct"], abs=4.0)


def test_garbage_on_every_stream_is_buried_and_stops_nothing(tmp_path: Path) -> None:
    with up(tmp_path, duration="12s") as process:
        within(40, lambda: generating(tmp_path))
        state = read_state(tmp_path, "clover")
        assert state is not None
        written = asyncio.run(_write_garbage(state.url))
        within(15, lambda: asyncio.run(_buried(state.url)) >= written)
        told = clover(tmp_path, "events", "--no-follow")
        result = result_of(process)
    assert told.returncode == 0
    assert "its figures cannot be read" in told.stdout
    all_answered(result)
    assert result["accuracy_pct"] == pytest.approx(result["predicted"]["accuracy_pct"], rel=0.02)


async def _server_pid(url: str) -> int:
    link = RedisLink(url, "by-hand")
    try:
        told = (await link.command("INFO", "server")).decode()
        return int(next(line[11:] for line in told.splitlines() if line.startswith("process_id:")))
    finally:
        await link.close()


def _kinds(folder: Path, group: str) -> list[str]:
    answer = clover(folder, "events", "--no-follow", "--json", "--kind", group)
    return [json.loads(line)["kind"] for line in answer.stdout.splitlines()]


_GARBAGE: tuple[tuple[str, ...], ...] = (
    ("hello", "world"),
    ("v", "99", "t", "event", "d", "{}"),
    ("v", "1", "t", "no-such-type", "d", "{}"),
    ("v", "1", "t", "event", "d", "{broken"),
    ("v", "1", "t", "telemetry", "d", '{"node": 3}'),
    (
        "v",
        "1",
        "t",
        "request",
        "id",
        "x",
        "due",
        "NaN",
        "dl",
        "1",
        "rt",
        "nobody",
        "prio",
        "normal",
        "acc",
        "",
        "d",
        "[]",
    ),
)

#: Well formed for the wire, but what they say makes no sense to those who read events.
_ODD_EVENTS: tuple[dict[str, Any], ...] = (
    {"kind": "decision", "data": {}},
    {"kind": "decision", "data": {"decision": ["1"], "trigger": 3, "alternatives": 7}},
    {"kind": "plan.step", "epoch": 10_000, "data": {"prediction": "great", "base": {}, "base_rightsized": None}},
    {"kind": "generator.finished", "subject": "nobody"},
)


async def _write_garbage(url: str) -> int:
    """Write garbage to every stream of the deployment but the dead one; return how many entries are to be buried."""
    link = RedisLink(url, "by-hand")
    try:
        streams = [s for s in await _streams(link) if not s.endswith(b":dead")]
        assert len(streams) >= sum(spec.kind == "stream" for spec in REGISTRY) - 1
        for stream in streams:
            for fields in _GARBAGE:
                await link.command("XADD", stream, "*", *fields)
        for event in _ODD_EVENTS:
            told = {"at_ms": 1.0, "source": "by hand", **event}
            await link.command("XADD", "{clover}:evt", "*", "v", "1", "t", "event", "d", json.dumps(told))
        return len(streams) * len(_GARBAGE)
    finally:
        await link.close()


async def _streams(link: RedisLink) -> list[bytes]:
    keys = await link.command("KEYS", "{clover}:*")
    return [key for key in keys if await link.command("TYPE", key) == b"stream"]


async def _buried(url: str) -> int:
    link = RedisLink(url, "by-hand")
    try:
        return await link.command("XLEN", "{clover}:dead")
    finally:
        await link.close()


@pytest.mark.models
@pytest.mark.skipif(find_spec("torch") is None, reason="pip install 'clover-serve[models]'")
def test_kill_9_of_a_worker_with_a_real_model_loses_nothing(tmp_path: Path) -> None:
    serving = ("--backend", "cpu", "--app", "efficientnet_lite", "--gpus", "1", "--rate", "6", "--sla", "2000")
    with up(tmp_path, *serving, duration="18s") as process:
        within(60, lambda: generating(tmp_path))
        os.kill(within(5, lambda: child_of(process.pid, "clover.serving.torch_worker")), signal.SIGKILL)
        within(20, lambda: _kinds(tmp_path, "worker"))
        told = clover(tmp_path, "infer", "chelsea", "--json")
        result = result_of(process)
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer["result"]["label"] in {"tabby", "tiger cat", "Egyptian cat"}
    assert answer["instance_started_for_this_call"] is False
    all_answered(result, least=50)
    assert result["energy_source"] == "estimate:tdp"
