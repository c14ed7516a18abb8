"""What the bus does when the server goes away, hangs, or was never there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from bus_world import world
from support import a_checkpoint, a_plan, a_request, a_target, done, eventually, intensity, persistently, run, telemetry

from clover.bus.embedded import EmbeddedServer
from clover.bus.redis import RedisBus, connect
from clover.bus.values import Admission, Feed
from clover.errors import BusError, BusUnavailableError, ConfigurationError


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    async def test() -> None:
        server = EmbeddedServer(tmp_path / "data")
        await server.start()
        port = server.port
        async with world(server.url) as w:
            await w.bus.admit([a_request(f"r{i}") for i in range(3)], bound=10)
            first, second = await w.bus.pull("c1", count=2, block_s=1)
            await w.bus.finish([done(first)])
            await w.bus.acquire_lease("c", ttl_s=60)
            await w.bus.publish_plan("c", a_plan(), [a_target()])
            await w.bus.publish_carbon([intensity()], a_checkpoint())
            await w.bus.publish_telemetry(telemetry())
            await server.stop()
            with pytest.raises(BusUnavailableError):
                await w.bus.ping()
            server = EmbeddedServer(tmp_path / "data", port=port)
            async with server:
                await w.bus.ping()
                # Every connection learns of the restart from its first error, and is new after that.
                assert await persistently(lambda: w.bus.own_pending("c1")) == [second]
                again = [a_request("r1")]
                assert await persistently(lambda: w.bus.admit(again, bound=10)) == [Admission.DUPLICATE]
                assert await persistently(lambda: w.bus.finish([done(second)])) == [True]
                [third] = await persistently(lambda: w.bus.pull("c1", count=5, block_s=1))
                assert third.request.id == "r2"
                replies, _ = await persistently(lambda: w.bus.replies("generator", "0", block_s=0))
                assert [reply.id for reply in replies] == ["r0", "r1"]
                assert await w.bus.plan() == a_plan(epoch=1)
                assert await w.bus.target("n1") == a_target(epoch=1)
                assert await w.bus.checkpoint() == a_checkpoint()
                assert set(await w.bus.node_states()) == {"n1"}
                assert not await w.bus.acquire_lease("other", ttl_s=1)

    run(test())


async def answers(bus: RedisBus) -> bool:
    try:
        await bus.beat("someone")
        await bus.pull("someone", count=1, block_s=0)
    except BusUnavailableError:
        return False
    return True


def test_a_stopped_server_does_not_stall_anyone(tmp_path: Path) -> None:
    async def test() -> None:
        async with EmbeddedServer(tmp_path) as server, world(server.url) as w:
            await w.bus.pull("c1", count=1, block_s=0)
            await w.bus.beat("c1")
            os.kill(server.pid, signal.SIGSTOP)
            try:
                calls = [
                    w.bus.ping(),
                    w.bus.beat("c1"),
                    w.bus.admit([a_request("r1")], bound=10),
                    w.bus.pull("c1", count=1, block_s=10),
                    w.bus.replies("p1", "0", block_s=10),
                    w.bus.follow({Feed.EVENTS: "0"}, block_s=10),
                    w.bus.next_target("n1", after_epoch=0, block_s=10),
                ]
                began = time.monotonic()
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - began < 3.0
                assert [type(result) for result in results] == [BusUnavailableError] * len(calls)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await eventually(lambda: answers(w.bus))
            # Whether the first try came through nobody knows; trying again is safe.
            await w.bus.admit([a_request("r1")], bound=10)
            assert await w.bus.admit([a_request("r1")], bound=10) == [Admission.DUPLICATE]
            held = await w.bus.own_pending("c1") or await w.bus.pull("c1", count=1, block_s=1)
            assert [delivery.request.id for delivery in held] == ["r1"]

    run(test())


def test_a_server_that_never_was(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            urls = [f"redis://127.0.0.1:{unused.getsockname()[1]}", f"unix://{tmp_path}/none.sock"]
            for url in urls:
                async with world(url) as w:
                    for call in (w.bus.ping, w.bus.queue, lambda w=w: w.bus.pull("c1", count=1, block_s=5)):
                        with pytest.raises(BusUnavailableError):
                            await call()

    run(test())


def test_calls_after_close_are_refused(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(valkey.url) as w:
            await w.bus.close()
            with pytest.raises(BusError, match="closed"):
                await w.bus.ping()

    run(test())


def test_a_wrong_password_is_said_with_a_hint(valkey: EmbeddedServer) -> None:
    async def test() -> None:
        async with world(f"redis://someone:secret@127.0.0.1:{valkey.port}") as w:
            with pytest.raises(BusError) as caught:
                await w.bus.ping()
            assert not isinstance(caught.value, BusUnavailableError)
            assert caught.value.hint
            assert "secret" not in str(caught.value)

    run(test())


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://localhost", "redis://", "redis://h:port", "redis://h:99999", "unix://"]
)
def test_nonsense_urls_are_configuration_errors(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(url, "clover", "test")
    assert caught.value.hint


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    async def test() -> None:
        # A path in the temporary directory of a test may be too long for a socket.
        path = f"{tempfile.gettempdir()}/clover-{uuid.uuid4().hex[:12]}.sock"
        async with EmbeddedServer(tmp_path, extra={"unixsocket": path}), world(f"unix://{path}") as w:
            assert await w.bus.admit([a_request("r1")], bound=10) == [Admission.ADMITTED]

    run(test())


# --- the embedded server itself


def test_a_port_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigurationError, match="cannot be used"):
                await EmbeddedServer(tmp_path, port=taken.getsockname()[1]).start()

    run(test())


def test_a_directory_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    async def test() -> None:
        async with EmbeddedServer(tmp_path):
            with pytest.raises(ConfigurationError, match="in use"):
                await EmbeddedServer(tmp_path).start()
        async with EmbeddedServer(tmp_path):
            pass

    run(test())


def test_a_program_that_is_no_server_is_a_configuration_error(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ConfigurationError, match="ended at once"):
            await EmbeddedServer(tmp_path, binary=Path("/bin/false"), port=0).start()
        with pytest.raises(ConfigurationError, match="cannot be started"):
            await EmbeddedServer(tmp_path, binary=tmp_path / "none", port=0).start()

    run(test())


def test_a_hanging_server_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        server = EmbeddedServer(tmp_path, stop_limit_s=0.2)
        await server.start()
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        await server.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(test())
