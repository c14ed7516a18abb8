"""`clover server`: the embedded server, alone."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cli import options
from cli.output import print_json, tell


def server(
    *,
    deployment: options.Deployment = "clover",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="TCP port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Run the embedded server (Valkey) of a deployment until it is stopped.

    Example: clover server --deployment demo --port 6390
    """
    here = options.where(deployment, None, state_dir)
    asyncio.run(_serve(here, port, as_json=as_json))


async def _serve(here: options.Where, port: int, *, as_json: bool) -> None:
    from clover.agents.deployment import claim_state, release_state  # noqa: PLC0415 - keeps --help fast
    from clover.agents.lifetime import until_stopped  # noqa: PLC0415
    from clover.agents.runtime import check_state_folder, stop_on_signals  # noqa: PLC0415
    from clover.bus.embedded import EmbeddedServer  # noqa: PLC0415

    folder = check_state_folder(here.state_folder)
    claim_state(folder, here.deployment, url="", owner="server")
    try:
        async with EmbeddedServer(folder / here.deployment / "server", port=port or None) as running:
            claim_state(folder, here.deployment, url=running.url, owner="server")
            if as_json:
                print_json({"deployment": here.deployment, "url": running.url})
            tell(f"serving deployment {here.deployment!r} at {running.url}; Ctrl-C stops it")
            await until_stopped(stop_on_signals(), running.keep_running(tell))
    finally:
        release_state(folder, here.deployment)
