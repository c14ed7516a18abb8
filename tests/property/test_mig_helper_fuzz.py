"""Whatever a client sends, a helper answers with a line or closes, and goes on serving others."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from helper_support import Raw, a_helper, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from mig.helper_client import HelperDriver
from mig.helper_policy import HelperPolicy
from mig.helper_protocol import MAX_REQUEST_BYTES
from mig.helper_socket import HelperLimits
from mig.partition import Partition
from mig.profiles import gpu_model
from mig.simulated import SimulatedGpu

A100 = gpu_model("a100-40gb")
LIMITS = HelperLimits(idle_s=2.0, request_s=0.05, work_s=2.0)
NAMES = st.sampled_from(["gpus", "mode", "set_mode", "instances", "devices", "create", "destroy", "holders", "energy"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
PIECES = st.sampled_from([b"\n", b"{", b'"', b"\x00", b"\xff\xfe"])
PROFILES = st.sampled_from([profile.name for profile in A100.profiles]) | st.text(max_size=80)
NEARLY = st.fixed_dictionaries(
    {"do": NAMES | st.text(max_size=10)},
    optional={
        "gpu": st.integers(-1, 2) | VALUES,
        "enabled": st.booleans() | VALUES,
        "allow_reset": st.booleans(),
        "profile": PROFILES | VALUES,
        "start": st.integers(-1, 9) | VALUES,
        "size": st.integers(-1, 9) | VALUES,
        "instance_id": st.integers(-1, 20) | VALUES,
        "more": VALUES,
    },
)
JSON_LINES = (NEARLY | VALUES).map(lambda value: json.dumps(value).encode() + b"\n")


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def within(coroutine: Coroutine[Any, Any, None], limit_s: float = 60.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await coroutine

    asyncio.run(bounded())


async def still_serves(path: Path, gpu: SimulatedGpu) -> None:
    """Another client is served, and the GPU is in a state that a GPU can be in."""
    async with HelperDriver(path, call_timeout_s=10.0) as driver:
        (client,) = await driver.gpus()
        assert await client.mode() == await gpu.mode()
    living = tuple(instance.placed for instance in gpu._instances.values())
    Partition(placed=living)


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.binary(max_size=200) | st.sampled_from([b"\n", b"{", b'"', b"\x00", b"\xff\xfe"]), max_size=8)
)
def test_random_bytes(chunks: list[bytes]) -> None:
    async def run(path: Path) -> None:
        gpu = SimulatedGpu(A100, 0, seed=1, sleep=at_once)
        async with a_helper(path, [gpu], limits=LIMITS):
            async with raw(path) as line:
                await _write_all(line, chunks)
                await _only_errors_until_closed(line)
            await still_serves(path, gpu)

    with tempfile.TemporaryDirectory() as folder:
        within(run(Path(folder) / "s"))


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(JSON_LINES, min_size=1, max_size=8), mode=st.booleans())
def test_random_json_gets_one_answer_each(lines: list[bytes], mode: bool) -> None:
    async def run(path: Path) -> None:
        gpu = SimulatedGpu(A100, 0, seed=1, sleep=at_once)
        async with a_helper(path, [gpu], policy=HelperPolicy(mode=mode), limits=LIMITS):
            async with raw(path) as connection:
                for line in lines:
                    answer = json.loads(await connection.say(line))
                    assert set(answer) in ({"ok"}, {"error"})
                    assert "bug" not in answer.get("error", {}).get("message", "")
            await still_serves(path, gpu)

    with tempfile.TemporaryDirectory() as folder:
        within(run(Path(folder) / "s"))


@settings(max_examples=20, deadline=None)
@given(length=st.integers(MAX_REQUEST_BYTES, 300_000), filling=st.sampled_from([b"[", b" ", b"x", b"\xc3"]))
def test_oversize_requests(length: int, filling: bytes) -> None:
    async def run(path: Path) -> None:
        gpu = SimulatedGpu(A100, 0, seed=1, sleep=at_once)
        async with a_helper(path, [gpu], limits=LIMITS):
            async with raw(path) as line:
                answer = await line.say(filling * length + b"\n")
                assert answer == b"" or b"longer than" in answer
                assert await line.hear() == b""
            await still_serves(path, gpu)

    with tempfile.TemporaryDirectory() as folder:
        within(run(Path(folder) / "s"))


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 60), ends=st.sampled_from(["abort", "eof", "silence", "close"]))
def test_half_open_connections(cut: int, ends: str) -> None:
    request = b'{"do":"create","gpu":0,"profile":"3g.20gb","start":4,"size":4}\n'

    async def run(path: Path) -> None:
        gpu = SimulatedGpu(A100, 0, seed=1, sleep=at_once)
        async with a_helper(path, [gpu], limits=HelperLimits(idle_s=0.1, request_s=0.05)):
            async with raw(path) as line:
                line.writer.write(request[:cut])
                await line.writer.drain()
                if ends == "abort":
                    line.writer.transport.abort()
                elif ends == "eof":
                    line.writer.write_eof()
                if ends in {"eof", "silence"}:
                    await _only_errors_until_closed(line)
            await still_serves(path, gpu)
            assert await gpu.instances() == ()

    with tempfile.TemporaryDirectory() as folder:
        within(run(Path(folder) / "s"))


async def _write_all(line: Raw, chunks: list[bytes]) -> None:
    try:
        for chunk in chunks:
            line.writer.write(chunk)
            await line.writer.drain()
        line.writer.write_eof()
    except (ConnectionError, OSError):
        return


async def _only_errors_until_closed(line: Raw) -> None:
    while answer := await line.hear():
        assert set(json.loads(answer)) in ({"ok"}, {"error"})
