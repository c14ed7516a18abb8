"""A helper with rights and its clients: who may do what, one writer, and connections that break."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from helper_support import a_helper, helped, raw
from support import eventually

from mig import errors
from mig.apply import apply
from mig.device import Holder, MigMode
from mig.errors import (
    DriverTimeoutError,
    GpuLockedError,
    MigError,
    MigNotSupportedError,
    PartitionRejectedError,
    PermissionDeniedError,
)
from mig.helper_client import HelperDriver
from mig.helper_policy import HelperPolicy, Peer, Writers, peer_of
from mig.helper_protocol import MAX_REQUEST_BYTES, HelperError, error_of, failure_of
from mig.helper_server import HelperServer
from mig.helper_socket import HelperLimits
from mig.placement import Placement, place
from mig.profiles import GpuModel, gpu_model
from mig.simulated import SimulatedGpu
from mig.store import MemoryStore

A100 = gpu_model("a100-40gb")
SEVEN, THREE = place(A100.profile("7g"), 0), place(A100.profile("3g"), 4)


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


class Gate:
    """A sleep that lasts until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, _seconds: float) -> None:
        self.reached.set()
        await self.opened.wait()


def boards(count: int = 1) -> list[SimulatedGpu]:
    return [SimulatedGpu(A100, index, seed=1, sleep=at_once) for index in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


def test_a_whole_apply_goes_through_a_helper(path: Path) -> None:
    async def run() -> None:
        gpus = boards(2)
        async with helped(path, gpus) as clients:
            assert [client.uuid for client in clients] == [gpu.uuid for gpu in gpus]
            assert clients[1].model == A100
            report = await apply(clients[1], ("4g", "3g"), MemoryStore())
            assert report.ok
            assert report.instances == await gpus[1].instances() == await clients[1].instances()
            assert await gpus[0].instances() == ()
            assert str(path) in clients[0].notes[-1]

    asyncio.run(run())


# --- rights


def test_only_gpus_and_profiles_it_was_started_for_can_be_changed(path: Path) -> None:
    async def run() -> None:
        gpu = boards()[0]
        instance = await gpu.create(SEVEN.profile, SEVEN.placement)
        policy = HelperPolicy(profiles=frozenset({"3g", "2g.10gb"}))
        async with helped(path, [gpu], policy=policy) as (client,):
            with pytest.raises(PermissionDeniedError, match=r"profile 7g \(7g.40gb\): expected one .* 2g.10gb, 3g"):
                await client.destroy(instance.id)
            assert await gpu.instances() == (instance,)
            await gpu.destroy(instance.id)
            with pytest.raises(PermissionDeniedError, match="profile 4g"):
                await client.create(A100.profile("4g"), Placement(start=0, size=4))
            for size, start in (("3g", 4), ("2g", 0)):
                placed = place(A100.profile(size), start)
                await client.create(placed.profile, placed.placement)
            with pytest.raises(PermissionDeniedError, match="does not change MIG mode") as caught:
                await client.set_mode(enabled=False)
            assert caught.value.privilege == "root"
            async with raw(path) as line:
                answer = json.loads(await line.say(b'{"do":"mode","gpu":1}\n'))
                assert "gpu 1: expected one that the helper serves, 0" in answer["error"]["message"]

    asyncio.run(run())


def test_who_may_ask() -> None:
    mine = os.geteuid()
    stranger = Peer(pid=1, uid=mine + 4711, gids=frozenset({77, 78}))
    HelperPolicy().check_peer(Peer(pid=1, uid=mine, gids=frozenset()))
    HelperPolicy().check_peer(Peer(pid=1, uid=0, gids=frozenset()))
    HelperPolicy(uids=frozenset({stranger.uid})).check_peer(stranger)
    HelperPolicy(gids=frozenset({78})).check_peer(stranger)
    for policy in (HelperPolicy(), HelperPolicy(uids=frozenset({1}), gids=frozenset({79}))):
        with pytest.raises(PermissionDeniedError, match=f"user {stranger.uid} may not use this helper"):
            policy.check_peer(stranger)


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    first, second = socket.socketpair(socket.AF_UNIX)
    with first, second:
        peer = peer_of(first)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.gids == {os.getegid(), *os.getgroups()}


def test_a_stranger_is_told_so_and_served_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = Peer(pid=1, uid=os.geteuid() + 4711, gids=frozenset())
    monkeypatch.setattr("mig.helper_server.peer_of", lambda _connection: stranger)

    async def run() -> None:
        async with a_helper(path, boards()), HelperDriver(path) as driver:
            with pytest.raises(PermissionDeniedError, match=f"user {stranger.uid} may not use this helper"):
                await driver.gpus()

    asyncio.run(run())


# --- one writer


def test_one_process_at_a_time_is_the_writer_of_a_gpu() -> None:
    writers = Writers()
    first, second = Peer(pid=1, uid=0, gids=frozenset()), Peer(pid=2, uid=0, gids=frozenset())
    writers.claim(0, first, "a")
    writers.claim(0, first, "b")
    writers.claim(1, second, "c")
    with pytest.raises(GpuLockedError, match="GPU 0 is changed by process 1"):
        writers.claim(0, second, "c")
    writers.release("a")
    with pytest.raises(GpuLockedError):
        writers.claim(0, second, "c")
    writers.release("b")
    writers.claim(0, second, "c")


def test_another_process_reads_but_does_not_change_until_the_writer_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = iter(range(1000, 2000))
    monkeypatch.setattr("mig.helper_server.peer_of", lambda _connection: Peer(pid=next(pids), uid=0, gids=frozenset()))

    async def run() -> None:
        gpu = boards()[0]
        async with helped(path, [gpu]) as (first,):
            instance = await first.create(SEVEN.profile, SEVEN.placement)
            async with HelperDriver(path) as other:
                (second,) = await other.gpus()
                assert await second.instances() == (instance,)
                with pytest.raises(GpuLockedError, match="GPU 0 is changed by process"):
                    await second.destroy(instance.id)
            async with raw(path) as line:
                destroy = json.dumps({"do": "destroy", "gpu": 0, "instance_id": instance.id}).encode() + b"\n"
                assert b"GpuLockedError" in await line.say(destroy)
                first._connection.close()

                async def destroyed() -> bool:
                    return b"GpuLockedError" not in await line.say(destroy)

                await eventually(destroyed)
        assert await gpu.instances() == ()

    asyncio.run(run())


# --- connections that break


def test_a_client_that_goes_breaks_off_what_it_asked_for(path: Path) -> None:
    async def run() -> None:
        gate = Gate()
        gpu = SimulatedGpu(A100, 0, seed=1, sleep=gate)
        async with helped(path, [gpu]) as (client,):
            creating = asyncio.ensure_future(client.create(SEVEN.profile, SEVEN.placement))
            await gate.reached.wait()
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
            assert await client.instances() == ()
            gate.opened.set()
            await client.create(THREE.profile, THREE.placement)
            assert [str(each.placed) for each in await gpu.instances()] == ["3g@4"]

    asyncio.run(run())


def test_a_helper_that_is_started_again_goes_on_serving_the_same_client(path: Path) -> None:
    async def run() -> None:
        gpu = boards()[0]
        async with HelperDriver(path) as driver:
            async with a_helper(path, [gpu]):
                (client,) = await driver.gpus()
                instance = await client.create(SEVEN.profile, SEVEN.placement)
            with pytest.raises(HelperError, match=r"helper.sock: .*: expected `clover mig helper` to listen"):
                await client.instances()
            async with a_helper(path, [gpu]):
                assert await client.instances() == (instance,)

    asyncio.run(run())


def test_a_helper_that_is_not_there_and_one_that_does_not_answer(path: Path) -> None:
    ended = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    async def run() -> None:
        async with HelperDriver(path, call_timeout_s=0.05) as driver:
            with pytest.raises(HelperError, match="No such file or directory"):
                await driver.gpus()
        server = await asyncio.start_unix_server(deaf, str(path))
        async with HelperDriver(path, call_timeout_s=0.05) as driver:
            with pytest.raises(DriverTimeoutError, match="did not answer within 0.05 s"):
                await driver.gpus()
        await ended.wait()
        server.close()

    asyncio.run(run())


def test_a_driver_that_takes_too_long_is_told_apart(path: Path) -> None:
    async def run() -> None:
        gpu = SimulatedGpu(A100, 0, seed=1, sleep=Gate())
        async with helped(path, [gpu], limits=HelperLimits(work_s=0.05)) as (client,):
            with pytest.raises(DriverTimeoutError, match="did not answer the helper within 0.05 s"):
                await client.create(SEVEN.profile, SEVEN.placement)
            assert await client.instances() == ()

    asyncio.run(run())


def test_half_a_request_too_long_a_request_and_silence_end_a_connection(path: Path) -> None:
    async def run() -> None:
        limits = HelperLimits(idle_s=0.2, request_s=0.05)
        async with a_helper(path, boards(), limits=limits):
            async with raw(path) as line:
                assert b"not complete within 0.05 s" in await line.say(b'{"do":')
                assert await line.hear() == b""
            async with raw(path) as line:
                assert f"longer than {MAX_REQUEST_BYTES} bytes".encode() in await line.say(b"x" * 20_000)
            async with raw(path) as line:
                line.writer.write_eof()
                assert await line.hear() == b""
            async with raw(path) as line:
                assert await line.hear() == b""

    asyncio.run(run())


def test_more_clients_than_it_may_have_are_told_so(path: Path) -> None:
    async def run() -> None:
        async with a_helper(path, boards(), limits=HelperLimits(connections=1)), raw(path) as first:
            assert b'"ok"' in await first.say(b'{"do":"gpus"}\n')
            async with raw(path) as second:
                assert b"1 clients are connected: expected fewer" in await second.say(b'{"do":"gpus"}\n')
            assert b'"ok"' in await first.say(b'{"do":"gpus"}\n')

    asyncio.run(run())


def test_requests_that_come_before_the_answer_are_answered_in_order(path: Path) -> None:
    async def run() -> None:
        async with a_helper(path, boards()), raw(path) as line:
            assert b'"current":true' in await line.say(b'{"do":"mode","gpu":0}\n{"do":"energy","gpu":0}\n\n')
            assert await line.hear() == b'{"ok":null}\n'
            assert b'"error"' in await line.hear()

    asyncio.run(run())


# --- socket


def test_a_socket_left_behind_is_replaced_and_a_living_one_is_not(path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    async def run() -> None:
        async with a_helper(path, boards()):
            assert "a helper listens there" in await refusal(path)

    asyncio.run(run())
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("something")
    assert "it is something else" in asyncio.run(refusal(path))
    assert path.read_text() == "something"
    nowhere = asyncio.run(refusal(path.parent / "none" / "helper.sock"))
    assert "No such file or directory: expected a path in a folder" in nowhere


async def refusal(path: Path) -> str:
    """Why a helper cannot listen there."""
    with pytest.raises(HelperError) as caught:
        await HelperServer(boards(), HelperPolicy()).serve(path, asyncio.Event())
    return str(caught.value)


# --- what goes over the wire


ERRORS: list[MigError] = [
    errors.PartitionRejectedError("m", hint="h"),
    errors.InsufficientResourcesError("m", shortage="fragmented", hint="h"),
    errors.DeviceBusyError("m", holders=(Holder(pid=3, command="python"),)),
    errors.PermissionDeniedError("m", privilege="mig/config"),
    errors.MigNotSupportedError("m"),
    errors.MigDisabledError("m"),
    errors.ResetRequiredError("m"),
    errors.DriverError("m", code=999),
    errors.NoDriverError("m", code=12),
    errors.DriverTooOldError("m", code=13),
    errors.DriverTimeoutError("m"),
    errors.GpuLostError("m", code=15),
    errors.GpuLockedError("m"),
    errors.ForeignInstanceError("m", instance_ids=(1, 2)),
    errors.RecordError("m"),
    errors.UnknownGpuModelError("m"),
    HelperError("m"),
]


def test_every_error_comes_out_as_it_went_in() -> None:
    assert {type(error) for error in ERRORS} >= _all_kinds(MigError) - {_Newer}
    for error in ERRORS:
        again = error_of(failure_of(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


class _Newer(errors.GpuLostError):
    """Of a kind that the other side does not know."""


def _all_kinds(kind: type[MigError]) -> set[type[MigError]]:
    below = {each for each in kind.__subclasses__() if each.__module__ in {"mig.errors", "mig.helper_protocol"}}
    return below.union(*(_all_kinds(each) for each in below)) if below else set()


def test_an_error_of_an_unknown_kind_becomes_the_nearest_known() -> None:
    assert type(error_of(failure_of(_Newer("m", code=15)))) is errors.GpuLostError


def test_a_gpu_whose_table_cannot_be_read_says_why(path: Path) -> None:
    class NoTable(SimulatedGpu):
        @property
        def model(self) -> GpuModel:
            raise MigNotSupportedError("GPU 0: it cannot be partitioned", hint="no")

    async def run() -> None:
        async with helped(path, [NoTable(A100, 0, seed=1)]) as (client,):
            with pytest.raises(MigNotSupportedError, match="it cannot be partitioned"):
                _ = client.model
            assert await client.mode() == MigMode(current=True, pending=True)

    asyncio.run(run())


def test_a_profile_of_another_board_is_refused(path: Path) -> None:
    async def run() -> None:
        async with helped(path, boards()) as (client,):
            with pytest.raises(PartitionRejectedError, match=r"profile 1g.6gb \(id 14\): expected one of a100-40gb"):
                await client.create(gpu_model("a30").profile("1g"), Placement(start=0, size=1))

    asyncio.run(run())


def test_a_bug_in_one_request_does_not_end_the_helper(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(SimulatedGpu):
        async def energy_mj(self) -> int | None:
            raise ZeroDivisionError

    async def run() -> None:
        async with helped(path, [Buggy(A100, 0, seed=1, sleep=at_once)]) as (client,):
            with pytest.raises(HelperError, match="the helper has a bug"):
                await client.energy_mj()
            assert await client.instances() == ()

    asyncio.run(run())
    assert "ZeroDivisionError" in caplog.text
