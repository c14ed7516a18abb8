from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serving_support import FAKE, children, eventually, fakes, is_alive, request, run, spec

from clover.errors import ConfigurationError
from clover.serving.framing import MAX_PAYLOAD_BYTES
from clover.serving.pinning import cores_of_gpus
from clover.serving.port import InstanceSpec, InvalidInputError, ServingError, WorkerDiedError
from clover.serving.process import ProcessServicer

if TYPE_CHECKING:
    from collections.abc import Awaitable

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")


def test_an_answer_comes_with_its_cost() -> None:
    async def scenario() -> None:
        async with fakes(power_w_per_core=8.0) as servicer:
            worker = await servicer.start(spec("good"))
            served = await worker.serve(request(b"abc"))
            assert (served.content_type, served.payload) == ("text/plain", b"cba")
            assert served.busy_s == 0.25
            assert served.energy_j == 2.0
            assert served.service_ms > 0
            assert (worker.load_s, worker.warm_up_s) == (0.5, 0.1)
            assert worker.start_s > 0
            assert servicer.energy_source == "estimate:tdp"

    run(scenario())


def test_many_workers_start_at_once_and_serve_side_by_side() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            workers = await asyncio.gather(*(servicer.start(spec("good", slices=1)) for _ in range(7)))
            assert len({worker.pid for worker in workers}) == 7
            answers = await asyncio.gather(*(worker.serve(request(b"ab")) for worker in workers))
            assert [served.payload for served in answers] == [b"ba"] * 7

    run(scenario())


def test_requests_to_one_worker_take_turns_and_large_ones_pass() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("good"))
            payloads = [bytes([number]) * 3_000_000 for number in range(5)]
            answers = await asyncio.gather(*(worker.serve(request(payload)) for payload in payloads))
            assert [served.payload for served in answers] == payloads

    run(scenario())


def test_a_bad_input_is_the_requests_fault() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("refuses"))
            with pytest.raises(InvalidInputError, match="not a picture"):
                await worker.serve(request(b"bad"))
            with pytest.raises(InvalidInputError, match="MiB"):
                await worker.serve(request(bytes(MAX_PAYLOAD_BYTES + 1)))
            assert (await worker.serve(request(b"ok"))).payload == b"ko"

    run(scenario())


def test_a_kill_fails_the_request_in_flight_and_is_told() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("hangs"))
            async with asyncio.TaskGroup() as group:
                died = group.create_task(worker.wait_died())
                serving = group.create_task(_error_of(worker.serve(request(b"x"))))
                await asyncio.sleep(0)
                os.kill(worker.pid or 0, signal.SIGKILL)
            assert isinstance(serving.result(), WorkerDiedError)
            assert "SIGKILL" in died.result()
            assert str(serving.result()) == died.result()
            with pytest.raises(WorkerDiedError, match="SIGKILL"):
                await worker.serve(request(b"x"))
            await worker.stop()

    run(scenario())


def test_a_crash_is_told_with_the_last_words() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("crashes"))
            with pytest.raises(WorkerDiedError, match="code 3; it last said: about to crash"):
                await worker.serve(request(b"x"))
            assert worker.last_lines == ("loading crashes", "about to crash")

    run(scenario())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("exits", "ended with code 7; it last said: line 29"),
        ("babbles at start", "garbage"),
        ("fails", "not the published ones"),
        ("never ready", "not ready after 1 s; it last said: loading never ready"),
    ],
)
def test_a_worker_that_does_not_start_leaves_a_reason_and_no_process(how: str, told: str) -> None:
    async def scenario() -> None:
        before = children() if sys.platform == "linux" else set()
        async with fakes(ready_s=1.0) as servicer:
            with pytest.raises(ServingError, match=told) as caught:
                await servicer.start(spec(how))
            assert caught.value.hint == ("reinstall" if how == "fails" else "")
            if sys.platform == "linux":
                await eventually(lambda: children() <= before)

    run(scenario())


def test_only_the_last_lines_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            with pytest.raises(ServingError):
                await servicer.start(spec("exits"))

    run(scenario())
    (record,) = [record for record in caplog.records if record.name == "clover.serving.worker_process"]
    assert record.getMessage().count("line ") == 20 + 1


def test_a_hung_worker_is_killed() -> None:
    async def scenario() -> None:
        async with fakes(request_s=0.3) as servicer:
            worker = await servicer.start(spec("hangs"))
            with pytest.raises(WorkerDiedError, match=r"did not answer within 0\.3 s"):
                await worker.serve(request(b"x"))
            assert "did not answer" in await worker.wait_died()
            assert not is_alive(worker.pid or 0)

    run(scenario())


def test_an_idle_worker_gives_signs_of_life_and_one_that_does_not_is_killed() -> None:
    async def scenario() -> None:
        async with fakes(heartbeat_s=0.02, silent_s=0.3) as servicer:
            lively, asleep = await servicer.start(spec("echo")), await servicer.start(spec("sleeps"))
            assert "was idle and gave no sign of life for 0.3 s" in await asleep.wait_died()
            assert not is_alive(asleep.pid or 0)
            with pytest.raises(WorkerDiedError):
                await asleep.serve(request(b"x"))
            # Meanwhile the other has been asked some ten times, and serves on.
            assert (await lively.serve(request(b"abc"))).payload == b"cba"

    run(scenario())


def test_a_stopped_process_is_noticed_without_any_request() -> None:
    async def scenario() -> None:
        async with fakes(heartbeat_s=0.02, silent_s=0.3) as servicer:
            worker = await servicer.start(spec("echo"))
            os.kill(worker.pid or 0, signal.SIGSTOP)
            assert "no sign of life" in await worker.wait_died()

    run(scenario())


@pytest.mark.skipif(len(cores_of_gpus(1)[0]) == 0, reason="needs Linux and two cores")
def test_workers_of_an_emulated_gpu_stay_on_its_core() -> None:
    usable = sorted(os.sched_getaffinity(0))
    cores = cores_of_gpus(3)
    assert [core for (core,) in cores] == [usable[1 + index % (len(usable) - 1)] for index in range(3)]
    assert cores_of_gpus(1, first=2) == cores[1:2]
    code = "import os; from clover.serving.pinning import pin; pin([{}]); print(sorted(os.sched_getaffinity(0)))"
    for core, told in ((cores[0][0], str([cores[0][0]])), (99_999, str(usable))):
        done = subprocess.run([sys.executable, "-c", code.format(core)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == told
    assert "not pinned to cores [99999]" in done.stderr


def test_garbage_ends_the_worker() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("babbles"))
            with pytest.raises(WorkerDiedError, match="garbage"):
                await worker.serve(request(b"x"))
            assert "garbage" in await worker.wait_died()

    run(scenario())


def test_stop_ends_the_process_once_and_for_all() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("good"))
            await asyncio.gather(worker.stop(), worker.stop())
            await worker.stop()
            assert "was stopped" in await worker.wait_died()
            assert not is_alive(worker.pid or 0)
            with pytest.raises(WorkerDiedError):
                await worker.serve(request(b"x"))

    run(scenario())


def test_a_worker_that_does_not_stop_is_killed() -> None:
    async def scenario() -> None:
        async with fakes(stop_s=0.3) as servicer:
            worker = await servicer.start(spec("never stops"))
            await worker.stop()
            assert "did not stop" in await worker.wait_died()
            assert not is_alive(worker.pid or 0)

    run(scenario())


@needs_proc
def test_a_cancelled_start_leaves_no_process() -> None:
    async def scenario() -> None:
        before = children()
        async with fakes() as servicer:
            starting = asyncio.create_task(servicer.start(spec("never ready")))
            await eventually(lambda: children() > before)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            await eventually(lambda: children() <= before)

    run(scenario())


def test_a_cancelled_request_does_not_answer_the_next() -> None:
    async def scenario() -> None:
        async with fakes() as servicer:
            worker = await servicer.start(spec("good"))
            for _ in range(20):
                given_up = asyncio.create_task(worker.serve(request(b"old")))
                await asyncio.sleep(0)
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
                assert (await worker.serve(request(b"new"))).payload == b"wen"

    run(scenario())


@needs_proc
def test_close_ends_everything_even_what_is_still_starting() -> None:
    async def scenario() -> None:
        before = children()
        async with fakes(stop_s=0.5) as servicer:
            worker = await servicer.start(spec("good"))
            starting = asyncio.create_task(_error_of(servicer.start(spec("never ready"))))
            await eventually(lambda: len(children() - before) == 2)
            await servicer.close()
            assert isinstance(await starting, ServingError)
            assert "was stopped" in await worker.wait_died()
            with pytest.raises(ServingError, match="closing"):
                await servicer.start(spec("good"))
            await eventually(lambda: children() <= before)

    run(scenario())


def test_a_missing_program_is_a_serving_error() -> None:
    async def scenario() -> None:
        servicer = ProcessServicer(command=("/nonexistent/program",))
        with pytest.raises(ServingError, match="cannot be started"):
            await servicer.start(spec("good"))

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_worker_does_not_outlive_its_agent() -> None:
    """The real worker program, before it is told what to load, so that it needs no torch.

    This process keeps the worker's input open: it is not the end of the input that ends it.
    """
    reader, writer = os.pipe()
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT, str(reader)],
        stdout=subprocess.PIPE,
        pass_fds=[reader],
        cwd=Path(__file__).resolve().parents[2],
    )
    with agent, os.fdopen(writer, "wb"), os.fdopen(reader, "rb"):
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        run(eventually(lambda: _ignores_sigint(pid)))
        agent.kill()
        run(eventually(lambda: not _runs(pid)))


_AGENT = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-m", "clover.serving.torch_worker", "t"], stdin=int(sys.argv[1]),
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(worker.pid, flush=True)
worker.wait()
"""


def _ignores_sigint(pid: int) -> bool:
    """Whether the worker has got as far as that, which is the step after asking for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (ignored,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    return bool(int(ignored, 16) >> (signal.SIGINT - 1) & 1)


def _runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_get_the_thread_settings_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVER_ANYTHING", "kept")
    environment = ProcessServicer(command=FAKE)._environment(spec("good"))
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["CLOVER_ANYTHING"] == "kept"


@pytest.mark.parametrize("slices", [0, 8])
def test_an_instance_is_a_part_of_its_gpu(slices: int) -> None:
    with pytest.raises(ValueError, match="compute_slices"):
        InstanceSpec(
            application="a",
            variant="v",
            profile="8g",
            compute_slices=slices,
            total_slices=7,
            device="",
            name="x",
        )


def test_errors_exit_with_the_code_of_a_node_fault() -> None:
    assert {error.exit_code for error in (ServingError, InvalidInputError, WorkerDiedError)} == {6}
    assert ConfigurationError.exit_code == 3


async def _error_of(awaitable: Awaitable[Any]) -> BaseException | None:
    """Return what an awaitable raises."""
    try:
        await awaitable
    except ServingError as exc:
        return exc
    return None
