"""TLS on a real server, and passwords that are shown nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from guarded import DEPLOYMENT, guarded
from servers import OPENSSL, REDIS_SERVER, RealServer, certificates, required, running
from support import a_request, run

from clover.bus.acl import user_name
from clover.bus.redis import RedisBus
from clover.errors import BusError, BusUnavailableError

# --- TLS


def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    required(REDIS_SERVER, OPENSSL)
    files = certificates(tmp_path)

    async def test() -> None:
        server = RealServer(tmp_path / "server")
        server._settings = (
            "port 0", f"tls-port {server.port}", f"tls-cert-file {files['server']}",
            f"tls-key-file {files['server_key']}", f"tls-ca-cert-file {files['ca']}", "tls-auth-clients yes",
        )  # fmt: skip
        async with running(server):
            place = f"127.0.0.1:{server.port}"
            mutual = f"ca={files['ca']}&cert={files['client']}&key={files['client_key']}"
            bus = RedisBus(f"rediss://{place}?{mutual}", DEPLOYMENT, "tls")
            await bus.admit([a_request("r1")], bound=10)
            assert len(await bus.pull("c1", count=1, block_s=1)) == 1
            await bus.close()
            stranger = f"ca={files['stranger']}&cert={files['client']}&key={files['client_key']}"
            for url in (
                f"rediss://{place}?{stranger}",
                f"rediss://{place}",
                f"rediss://localhost:{server.port}?{mutual}",
            ):
                bus = RedisBus(url, DEPLOYMENT, "tls")
                with pytest.raises(BusError, match="trust") as caught:
                    await bus.ping()
                assert not isinstance(caught.value, BusUnavailableError)
                assert "CLOVER_REDIS_CA" in caught.value.hint
                await bus.close()
            # Without a certificate of one's own, and without TLS at all.
            for url in (f"rediss://{place}?ca={files['ca']}", f"redis://{place}"):
                bus = RedisBus(url, DEPLOYMENT, "plain")
                with pytest.raises(BusError):
                    await bus.ping()
                await bus.close()

    run(test())


# --- the command line


def test_no_command_shows_the_password(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            secret = world.secrets["dashboard"]
            user = user_name(DEPLOYMENT, "dashboard")
            environment = {"CLOVER_REDIS": f"redis://{user}:{secret}@127.0.0.1:{world.port}"}
            by_file = {
                "CLOVER_REDIS": f"redis://127.0.0.1:{world.port}", "CLOVER_REDIS_USERNAME": user,
                "CLOVER_REDIS_PASSWORD_FILE": str(tmp_path / "secrets" / "dashboard"),
            }  # fmt: skip
            wrong = {"CLOVER_REDIS": f"redis://{user}:{secret}-wrong@127.0.0.1:{world.port}", "CLOVER_DEBUG": "1"}
            for variables, code in ((environment, 0), (by_file, 0), (wrong, 4)):
                result = await asyncio.to_thread(clover, "status", "--deployment", DEPLOYMENT, **variables)
                assert result.returncode == code, result.stderr
                assert secret not in result.stdout + result.stderr

    run(test(), limit_s=60)


def shown_by(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*.log"))


@pytest.mark.slow
def test_up_runs_as_the_operator_and_shows_its_password_nowhere(tmp_path: Path) -> None:
    async def test() -> None:
        async with guarded(tmp_path) as world:
            secret, state = world.secrets["operator"], tmp_path / "state"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cli", "up", "--deployment", DEPLOYMENT, "--gpus", "2", "--duration", "5s",
                "--no-tui", "--json", "--state-dir", str(state),
                env={
                    **os.environ, "CLOVER_REDIS": f"redis://127.0.0.1:{world.port}",
                    "CLOVER_REDIS_USERNAME": user_name(DEPLOYMENT, "operator"),
                    "CLOVER_REDIS_PASSWORD_FILE": str(tmp_path / "secrets" / "operator"),
                },
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            arguments: set[str] = set()
            output = asyncio.create_task(process.communicate())
            while not output.done():
                arguments |= set(command_lines())
                await asyncio.sleep(0.2)
            out, err = await output
            assert process.returncode == 0, err.decode()
            assert json.loads(out)["requests"]["lost"] == 0
            ours = [line for line in arguments if "agent" in line and DEPLOYMENT in line]
            assert len(ours) >= 5
            for text in (*arguments, out.decode(), err.decode(), shown_by(tmp_path)):
                assert secret not in text
            assert secret not in "".join(path.read_text() for path in state.glob("*.json"))

    run(test(), limit_s=110.0)


def command_lines() -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def clover(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
