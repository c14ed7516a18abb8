"""How every command gets to the server of its deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.output import tell

if TYPE_CHECKING:
    from cli.options import Where
    from clover.bus.port import Bus


async def connected(here: Where, client: str) -> Bus:
    """Connect to a deployment's server, waiting for it (and saying so) as long as was asked for.

    Args:
        here: Which deployment, and how long to wait.
        client: Name of this client on the server.

    Raises:
        BusError: Nothing answered in time.
    """
    from clover.agents.runtime import wait_for_bus  # noqa: PLC0415 - keeps --help fast

    return await wait_for_bus(
        redis=here.redis,
        state_folder=here.state_folder,
        deployment=here.deployment,
        client=client,
        wait_s=here.wait_s,
        tell=tell,
    )
