"""`clover doctor` and `clover config acl` against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import REDIS_SERVER, RealServer, required, running

from clover.bus.embedded import EmbeddedServer


def clover(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("CLOVER_")},
    )  # fmt: skip


def test_the_embedded_server_is_fit(valkey: EmbeddedServer) -> None:
    result = clover("doctor", "--redis", valkey.url, "--require-durable", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout) == {
        "schema": 1, "server": f"redis://127.0.0.1:{valkey.port}", "ok": True, "findings": [],
    }  # fmt: skip


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


def test_nothing_there_is_said_with_a_hint(tmp_path: Path) -> None:
    result = clover("doctor", "--state-dir", str(tmp_path))
    assert result.returncode == 4
    assert "hint:" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_rules_are_printed_without_secrets(tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = clover("config", "acl", "--deployment", "demo", "--secrets", str(tmp_path), *flags)
    assert result.returncode == 0, result.stderr
    text = result.stdout + result.stderr
    assert "user demo-node on #" in text
    assert not [path for path in tmp_path.iterdir() if path.read_text().strip() in text]
