"""Faults of real models through the whole system: a server, all agents, worker processes, and a producer that waits.

Each request gets one outcome that says what was wrong, and the others are answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from processes import clover
from serving_support import run

from clover.agents.backoff import Backoff
from clover.agents.fleet import make_fleet
from clover.agents.single import SingleInstance
from clover.agents.system_clock import SystemClock
from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import Reply, Request
from clover.bus.port import Bus
from clover.bus.redis import connect
from clover.catalog import load_recipes, unmeasured_service
from clover.core.identifiers import uuid7
from clover.core.intensity_trace import constant_trace
from clover.core.outcome import Outcome
from clover.errors import BusUnavailableError, MessageRejectedError
from clover.serving.availability import MODELS_HINT, missing_packages
from clover.serving.process import ProcessServicer
from clover.serving.questions import QUESTION, encode_question
from clover.serving.samples import load_input
from clover.serving.worker_process import WorkerSettings

pytestmark = [
    pytest.mark.models,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(missing_packages("albert") or missing_packages()), reason=MODELS_HINT),
]

CLOCK = SystemClock()

#: A family that does what its inputs say.
MOODY = """
import os, signal, threading
from pathlib import Path

class Moody:
    def prepare(self, content_type, payload):
        return payload.decode().split(" ", 1)

    def infer(self, words):
        what, rest = words
        if what == "die" or (what == "die-once" and not Path(rest).exists()):
            if what == "die-once":
                Path(rest).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            threading.Event().wait()
        if what == "fill":
            return len(bytearray(1 << 40))
        return rest

    def render(self, raw):
        return "text/plain", str(raw).encode()

    def warm_up(self):
        pass

def load(recipe):
    return Moody()
"""

APPLICATION = """
name = "moody"
title = "A model of moods"
accuracy_metric = "none, %"
request = "a few words"
servicer = "moody.py"

[variants.only]
accuracy = 50.0
source = "a test"
"""


@dataclass(slots=True)
class System:
    """A deployment that serves."""

    bus: Bus
    application: str
    asked: int = 0
    cursor: str = "0"

    def request(self, payload: bytes, content_type: str = "text/plain", *, within_s: float = 60.0) -> Request:
        now_ms = CLOCK.now_ms()
        self.asked += 1
        return Request(
            id=uuid7(now_ms, Random(self.asked)),
            application=self.application,
            due_ms=now_ms,
            deadline_ms=now_ms + within_s * 1e3,
            reply_to="test",
            content_type=content_type,
            payload=payload,
        )

    async def outcomes(self, requests: Sequence[Request]) -> list[Reply]:
        """Send requests and return the one reply of each, in their order."""
        await self._admitted(requests)
        found: dict[str, Reply] = {}
        while len(found) < len(requests):
            replies, self.cursor = await self.bus.replies("test", self.cursor, block_s=1.0)
            for reply in replies:
                assert reply.id not in found
                found[reply.id] = reply
        return [found[request.id] for request in requests]

    async def _admitted(self, requests: Sequence[Request]) -> None:
        """Send until the server has taken them, which with megabytes may take a busy machine longer than a call may."""
        backoff = Backoff(Random(0))
        while True:
            try:
                await self.bus.admit(requests, bound=100)
            except BusUnavailableError:
                await asyncio.sleep(backoff.next_s())
            else:
                return


@asynccontextmanager
async def system(
    folder: Path, app: str, *, variant: str | None = None, weights: str = "", request_s: float = 60.0
) -> AsyncIterator[System]:
    model = unmeasured_service(app, "cpu", variant=variant)
    servicer = ProcessServicer(recipes=load_recipes(app, weights), settings=WorkerSettings(request_s=request_s))
    async with EmbeddedServer(folder / "server") as server:
        bus, producer = (connect(server.url, "faults", name) for name in ("agents", "producer"))
        single = SingleInstance(
            fleet=make_fleet(backend="cpu", board="a100-40gb", model=model),
            trace=constant_trace(200.0),
            servicer=lambda: servicer,
            bus=bus,
        )
        try:
            async with single.running() as ready:
                assert await ready is not None
                yield System(producer, model.application.name)
        finally:
            await producer.close()
            await bus.close()


@pytest.fixture
def moody(tmp_path: Path) -> str:
    (tmp_path / "moody.py").write_text(MOODY)
    (tmp_path / "moody.toml").write_text(APPLICATION)
    return str(tmp_path / "moody.toml")


def test_death_in_mid_request_is_survived_and_memory_fails_its_request_alone(tmp_path: Path, moody: str) -> None:
    async def scenario() -> None:
        async with system(tmp_path, moody) as deployment:
            asked = [b"say a", b"fill memory", b"say b", f"die-once {tmp_path / 'died'}".encode(), b"say c"]
            replies = await deployment.outcomes([deployment.request(one) for one in asked])
            assert [reply.outcome for reply in replies] == [
                Outcome.OK,
                Outcome.FAILED,
                Outcome.OK,
                Outcome.OK,
                Outcome.OK,
            ]
            assert "out of memory, the instance has" in replies[1].reason
            assert (tmp_path / "died").exists()
            assert [replies[i].payload for i in (0, 2, 4)] == [b"a", b"b", b"c"]

    run(scenario(), limit_s=100.0)


def test_a_hung_worker_is_replaced_and_its_request_expires(tmp_path: Path, moody: str) -> None:
    async def scenario() -> None:
        async with system(tmp_path, moody, request_s=1.0) as deployment:
            asked = [deployment.request(b"hang up", within_s=0.5), deployment.request(b"say a")]
            hung, answered = await deployment.outcomes(asked)
            assert hung.outcome is Outcome.EXPIRED
            assert (answered.outcome, answered.payload) == (Outcome.OK, b"a")

    run(scenario(), limit_s=100.0)


@pytest.mark.slow
def test_a_request_that_kills_whoever_tries_is_given_up_after_three(tmp_path: Path, moody: str) -> None:
    async def scenario() -> None:
        async with system(tmp_path, moody) as deployment:
            asked = [deployment.request(b"die at once"), deployment.request(b"say a")]
            poison, answered = await deployment.outcomes(asked)
            assert poison.outcome is Outcome.FAILED
            assert "3 tries, the last: worker" in poison.reason
            assert "SIGKILL" in poison.reason
            assert (answered.outcome, answered.payload) == (Outcome.OK, b"a")

    run(scenario(), limit_s=100.0)


def test_what_is_no_picture_or_too_large_fails_alone_and_the_others_are_answered(tmp_path: Path) -> None:
    kind, picture = load_input("chelsea")

    async def scenario() -> None:
        async with system(tmp_path, "efficientnet_lite", variant="lite0") as deployment:
            asked = [picture, b"no picture", picture, bytes(65_000_000), picture]
            replies = await deployment.outcomes([deployment.request(one, kind) for one in asked])
            good, bad, large = replies[::2], replies[1], replies[3]
            assert [json.loads(reply.payload)["label"] for reply in good] == ["tiger cat"] * 3
            assert (bad.outcome, large.outcome) == (Outcome.FAILED, Outcome.FAILED)
            assert "is not a readable PNG" in bad.reason
            assert "more than 32 MiB" in large.reason
            # Beyond what the bus itself takes, its sender is told; what was sent with it can be sent without it.
            with pytest.raises(MessageRejectedError, match="expected at most 67108864"):
                await deployment.bus.admit([deployment.request(bytes(65 << 20), kind)], bound=100)
            (after,) = await deployment.outcomes([deployment.request(picture, kind)])
            assert after.outcome is Outcome.OK

    run(scenario(), limit_s=100.0)


@pytest.mark.slow
def test_an_empty_question_fails_alone_and_a_long_text_is_cut_and_said_to_be(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path, "albert", variant="base", weights="random") as deployment:
            asked = [
                encode_question("Who led the work?", "Ida Lorne led the work."),
                encode_question(" ", "Ida Lorne led the work."),
                encode_question("Who led the work?", "Ida Lorne led the work. " * 2_000),
                (QUESTION, b"Who led the work?"),
            ]
            requests = [deployment.request(payload, content_type) for content_type, payload in asked]
            short, empty, long, garbage = await deployment.outcomes(requests)
            assert [json.loads(reply.payload)["truncated"] for reply in (short, long)] == [False, True]
            assert json.loads(long.payload)["tokens"] <= 512
            assert (empty.outcome, garbage.outcome) == (Outcome.FAILED, Outcome.FAILED)
            assert "question" in empty.reason
            assert garbage.reason

    run(scenario(), limit_s=100.0)


#: What is wrong with the weights or the family of a variant, and what people are told.
WRONG = {
    "altered": ('weights = "labels.txt"\nsha256 = "0000"', "has SHA-256"),
    "garbage": ('weights = "labels.txt"', "not a TorchScript file"),
    "missing": ('weights = "nowhere.torchscript"', "nowhere.torchscript"),
}


@pytest.mark.slow
def test_weights_that_cannot_be_used_and_unknown_families_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    for name, (weights, _) in WRONG.items():
        (tmp_path / f"{name}.toml").write_text(_export(name, "torchscript", weights))
    (tmp_path / "unknown.toml").write_text(_export("unknown", "resnet9000", 'weights = "random"'))
    told = {name: text for name, (_, text) in WRONG.items()} | {
        "unknown": "servicer 'resnet9000' of unknown is unknown"
    }

    def ask(name: str) -> tuple[int, str]:
        done = clover(tmp_path, "infer", "--app", str(tmp_path / f"{name}.toml"), "chelsea")
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(told, pool.map(ask, told), strict=True))
    for name, (code, error) in found.items():
        assert code in {3, 6}, error
        assert told[name] in error
        assert "Traceback" not in error


def _export(name: str, servicer: str, weights: str) -> str:
    options = '[options]\npixels = 64\noutput = "classes"\nlabels = "labels.txt"\n' if servicer == "torchscript" else ""
    return f"""
name = "{name}"
title = "A test"
accuracy_metric = "none, %"
request = "one picture"
servicer = "{servicer}"

{options}
[variants.small]
accuracy = 50.0
source = "a test"
{weights}
"""
