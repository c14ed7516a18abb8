"""Two node agents of one name as real processes: the second is refused, the first serves on."""

from __future__ import annotations

import time
from pathlib import Path

from processes import clover, started
from support import run

from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import NodeTelemetry
from clover.bus.redis import connect


def state(url: str) -> NodeTelemetry | None:
    async def ask() -> NodeTelemetry | None:
        bus = connect(url, "names", "test")
        try:
            return (await bus.node_states()).get("twin")
        finally:
            await bus.close()

    return run(ask())


def test_the_second_node_of_a_name_is_refused_and_the_first_goes_on(tmp_path: Path, valkey: EmbeddedServer) -> None:
    agent = ["agent", "node", "--name", "twin", "--deployment", "names", "--redis", valkey.url]
    with started(tmp_path / "a", *agent):
        until = time.monotonic() + 30.0
        while (first := state(valkey.url)) is None and time.monotonic() < until:
            time.sleep(0.1)
        assert first is not None
        second = clover(tmp_path / "b", *agent, limit_s=60.0)
        assert second.returncode == 3
        assert "node 'twin': another agent serves under this name" in second.stderr
        assert "--name" in second.stderr
        assert "Traceback" not in second.stderr
        after = state(valkey.url)
        assert after is not None
        assert after.boot_id == first.boot_id
        assert after.at_ms > first.at_ms
