"""Nodes and generator of a change under load: agents of the product, each a process as `clover agent` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from clover.sim.rolling.settings import DEPLOYMENT, RollingSettings

#: What the agents say, in the experiment's folder.
AGENTS_LOG = "agents.log"


@contextlib.asynccontextmanager
async def nodes_and_generator(settings: RollingSettings, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run nodes and generator on the server of a URL until the block ends; gives the generator."""
    started: list[asyncio.subprocess.Process] = []
    profile = ["--profile", str(settings.profile)] if settings.profile else []
    try:
        for number, gpus in enumerate(settings.gpus, start=1):
            node = [
                "node",
                "--name",
                f"n{number}",
                "--gpus",
                str(gpus),
                "--seed",
                str(settings.seed * 100 + number),
            ]
            started.append(await _agent(settings, url, *node, *profile))
        generator = await _agent(
            settings, url, "generator", "--rate", f"{settings.rate_rps:g}", "--seed", str(settings.seed), *profile
        )
        started.append(generator)
        yield generator
    finally:
        for process in started:
            if process.returncode is None:
                process.terminate()
        for process in started:
            await process.wait()


async def _agent(settings: RollingSettings, url: str, *arguments: str) -> asyncio.subprocess.Process:
    folder = settings.folder
    model = settings.fleet.model
    common = ["--app", model.application.name, "--deployment", DEPLOYMENT, "--state-dir", str(folder / "state")]
    with (folder / AGENTS_LOG).open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cli",
            "agent",
            *arguments,
            *common,
            env={**os.environ, "CLOVER_REDIS": url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
