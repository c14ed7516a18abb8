"""Real servers of this host with settings of a test's own: ACL, TLS, replicas, sentinels; each on a free port."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

REDIS_SERVER = shutil.which("redis-server")
REDIS_SENTINEL = shutil.which("redis-sentinel")
OPENSSL = shutil.which("openssl")


def required(*tools: str | None) -> None:
    """Skip where a tool is missing."""
    if not all(tools):
        pytest.skip("needs redis-server, redis-sentinel and openssl (packages redis-server, redis-sentinel, openssl)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RealServer:
    """A process of `redis-server` (or `redis-sentinel`) that a test may kill and start again on the same port."""

    def __init__(
        self, folder: Path, *settings: str, binary: str | None = REDIS_SERVER, port: int | None = None
    ) -> None:
        assert binary is not None
        self.folder = folder
        self.port = port or free_port()
        self._binary = binary
        self._settings = settings
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"dir {self.folder}", "bind 127.0.0.1", "protected-mode no", *self._settings]
        if not any(line.startswith("port ") for line in lines):
            lines.insert(0, f"port {self.port}")
        file = self.folder / "server.conf"
        file.write_text("\n".join(lines) + "\n")
        log = (self.folder / "out.log").open("ab")
        with log:
            self.process = await asyncio.create_subprocess_exec(self._binary, str(file), stdout=log, stderr=log)
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self.process.returncode is None, (self.folder / "out.log").read_text()
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def running(*servers: RealServer) -> AsyncIterator[None]:
    """Start servers in order, and end them whatever happens."""
    try:
        for server in servers:
            await server.start()
        yield
    finally:
        for server in servers:
            await server.kill()


def certificates(folder: Path) -> dict[str, Path]:
    """Make an authority, the pairs of a server (127.0.0.1) and a client that it has signed, and a stranger's."""
    assert OPENSSL is not None
    files = {name: folder / f"{name}.pem" for name in ("ca", "server", "client", "stranger")}
    keys = {name: folder / f"{name}-key.pem" for name in files}

    def openssl(*arguments: str) -> None:
        subprocess.run([str(OPENSSL), *arguments], check=True, capture_output=True, cwd=folder)

    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign",
            "-keyout", str(keys[name]), "-out", str(files[name]),
        )  # fmt: skip
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    for name in ("server", "client"):
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(keys[name]),
            "-out", f"{name}.csr",
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", str(files["ca"]), "-CAkey", str(keys["ca"]),
            "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(files[name]),
        )  # fmt: skip
    return files | {f"{name}_key": path for name, path in keys.items()}
