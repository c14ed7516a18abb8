"""`clover doctor` and `clover config acl` against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from nvml_fake import FakeNvml
from servers import REDIS_SERVER, RealServer, required, running
from support import a_checkpoint, intensity, telemetry

from cli.doctor_checks import deployment_checks, gpu_checks
from clover.bus.embedded import EmbeddedServer
from clover.bus.memory import MemoryBus
from clover.bus.messages import NodeTelemetry
from mig.profiles import gpu_model


def clover(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("CLOVER_")},
    )  # fmt: skip


def test_the_embedded_server_is_fit(valkey: EmbeddedServer) -> None:
    result = clover("doctor", "--redis", valkey.url, "--require-durable", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    checks = {one.pop("check"): one for one in told.pop("checks")}
    assert told == {"schema": 1, "server": f"redis://127.0.0.1:{valkey.port}", "ok": True, "findings": []}
    for name in ("python", "embedded server", "torch", "disk", "terminal", "nvml", "server", "server rights"):
        assert checks[name]["status"] in {"ok", "warning"}, name
        assert checks[name]["text"]
        assert checks[name]["status"] == "ok" or checks[name]["remedy"], name
    # Nobody works on this server yet, and that is said with what to do.
    for name, command in (
        ("controller", "clover agent controller"),
        ("nodes", "clover agent node"),
        ("intensity", "--trace"),
    ):
        assert (checks[name]["status"], command in checks[name]["remedy"]) == ("warning", True)


def found(*settings: str, tmp_path: Path, flags: tuple[str, ...] = ()) -> tuple[int, dict[str, str]]:
    required(REDIS_SERVER)

    async def main() -> tuple[int, dict[str, str]]:
        server = RealServer(tmp_path, *settings)
        async with running(server):
            url = f"redis://127.0.0.1:{server.port}"
            result = await asyncio.to_thread(clover, "doctor", "--redis", url, "--json", *flags)
            findings = json.loads(result.stdout)["findings"]
            return result.returncode, {one["check"]: one["severity"] for one in findings}

    return asyncio.run(main())


def test_a_server_in_memory_alone_is_told_of_and_refused_only_if_that_matters(tmp_path: Path) -> None:
    assert found('save ""', tmp_path=tmp_path) == (0, {"persistence": "warning"})
    assert found('save ""', tmp_path=tmp_path, flags=("--require-durable",)) == (4, {"persistence": "warning"})


def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    settings = ("appendonly yes", "maxmemory 100mb", "maxmemory-policy allkeys-lru")
    assert found(*settings, tmp_path=tmp_path) == (4, {"eviction": "error"})


def test_up_refuses_it_before_anything_starts_if_it_must_be_durable(tmp_path: Path) -> None:
    required(REDIS_SERVER)

    async def main() -> None:
        server = RealServer(tmp_path / "server", 'save ""')
        async with running(server):
            result = await asyncio.to_thread(
                clover, "up", "--redis", f"redis://127.0.0.1:{server.port}", "--require-durable", "--no-tui",
                "--state-dir", str(tmp_path / "state"), "--duration", "1s",
            )  # fmt: skip
            assert result.returncode == 3
            assert "nothing is kept on disk" in result.stderr
            assert "hint: set appendonly yes" in result.stderr
            assert "Traceback" not in result.stderr

    asyncio.run(main())


def test_without_a_deployment_the_host_is_looked_at(tmp_path: Path) -> None:
    result = clover("doctor", "--state-dir", str(tmp_path))
    assert result.returncode == 0
    assert "clover up starts one" in result.stdout
    assert "Python 3." in result.stdout


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    result = clover("doctor", "--redis", "redis://127.0.0.1:1", "--state-dir", str(tmp_path))
    assert result.returncode == 4
    assert len(result.stderr.splitlines()) <= 2


def _checked(*messages: NodeTelemetry, event: list[Any] | None = None) -> dict[str, Any]:
    """Return what doctor says of nodes and grid, by check; a node's clock is compared with the bus's."""

    async def main() -> dict[str, Any]:
        bus = MemoryBus("demo", lambda: time.time() * 1e3)
        for message in messages:
            await bus.publish_telemetry(message)
        for reading in event or []:
            await bus.publish_carbon([reading], a_checkpoint())
        await bus.beat("controller:c1")
        return {one.check: one for one in await deployment_checks(bus)}

    return asyncio.run(main())


def test_clocks_of_nodes_are_compared_with_the_servers() -> None:
    now_ms = time.time() * 1e3
    good = _checked(replace(telemetry("n1"), at_ms=now_ms))
    assert (good["node clock"].status, good["nodes"].status, good["controller"].status) == ("ok", "ok", "ok")
    ahead = _checked(replace(telemetry("n1"), at_ms=now_ms + 30_000.0))["node clock"]
    assert (ahead.status, ahead.code, "ahead of" in ahead.text, "NTP" in ahead.remedy) == ("error", 6, True, True)
    behind = _checked(replace(telemetry("n1"), at_ms=now_ms - 30_000.0))["node clock"]
    assert (behind.status, "behind" in behind.text) == ("error", True)


def test_a_failed_gpu_is_an_error_with_its_reason() -> None:
    good = telemetry("n1")
    failed = replace(good, at_ms=time.time() * 1e3, gpus=(replace(good.gpus[0], phase="failed", reason="no memory"),))
    found = _all_checked(failed)
    assert any(one.check == "nodes" and one.status == "error" and "no memory" in one.text for one in found)


def _all_checked(message: NodeTelemetry) -> list[Any]:
    async def main() -> list[Any]:
        bus = MemoryBus("demo", lambda: time.time() * 1e3)
        await bus.publish_telemetry(message)
        return await deployment_checks(bus)

    return asyncio.run(main())


def test_an_old_or_replaced_intensity_is_told() -> None:
    now_ms = time.time() * 1e3
    fresh = replace(intensity(), from_ms=now_ms, to_ms=now_ms + 20_000.0, published_at_ms=now_ms)
    assert _checked(event=[fresh])["intensity"].status == "ok"
    assert _checked(event=[replace(fresh, fallback_level=4)])["intensity"].status == "warning"
    assert "stale" in _checked(event=[replace(fresh, from_ms=now_ms - 9e5, to_ms=now_ms - 8e5)])["intensity"].text


def test_gpus_modes_and_rights_are_looked_at(fake_nvml: FakeNvml) -> None:
    fake_nvml.add_gpu(gpu_model("a100-40gb"), mode=False)
    fake_nvml.add_gpu(gpu_model("a100-40gb"))
    found = [(one.check, one.status) for one in gpu_checks(None)]
    assert ("nvml", "ok") in found
    assert ("mig mode", "warning") in found
    assert ("mig mode", "ok") in found
    assert ("mig rights", "ok") in found


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_rules_are_printed_without_secrets(tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = clover("config", "acl", "--deployment", "demo", "--secrets", str(tmp_path), *flags)
    assert result.returncode == 0, result.stderr
    text = result.stdout + result.stderr
    assert "user demo-node on #" in text
    assert not [path for path in tmp_path.iterdir() if path.read_text().strip() in text]
