"""Runs one agent as this process: logging, the connection, and the end with its parent."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cli.connection import connected
from cli.output import tell

if TYPE_CHECKING:
    from cli.options import Where
    from clover.bus.port import Bus
    from clover.core.clock import Clock

    Build = Callable[[Bus, Clock], Callable[[asyncio.Event], Awaitable[None]]]
    """Makes an agent for a bus; what it returns runs until the event is set."""


def run_agent_process(here: Where, source: str, build: Build) -> None:
    """Run an agent until its work is done or somebody asks it to stop."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(here, source, build))


async def _run(here: Where, source: str, build: Build) -> None:
    from clover.agents.runtime import die_with_parent, run_agent  # noqa: PLC0415 - keeps --help fast
    from clover.agents.system_clock import SystemClock  # noqa: PLC0415

    die_with_parent()
    bus = await connected(here, source.replace(":", "-"))
    clock = SystemClock()
    tell(f"{source}: connected to deployment {here.deployment!r}")
    await run_agent(bus=bus, clock=clock, source=source, work=build(bus, clock))
