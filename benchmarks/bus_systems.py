"""The systems that `bus.py` compares: ours, the leanest loop on plain redis-py, and FastStream's Redis streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import orjson
import redis.asyncio as plain_redis  # noqa: TID251 - the loop that ours is compared with

from clover.bus.messages import Reply, Request
from clover.bus.redis import connect
from clover.bus.values import Completion, Delivery
from clover.core.outcome import Outcome

COUNT = 64
INPUT = b"x" * 1024
RESULT = b"y" * 64

# --- what a system does


class System(Protocol):
    """What a producer and a worker need."""

    async def send(self, ids: Sequence[str]) -> None:
        """Send requests, in one round trip."""
        ...

    async def receive(self) -> list[str]:
        """Return ids of replies, waiting for the first."""
        ...

    async def take(self, count: int = COUNT) -> list[Any]:
        """Return up to `count` requests, waiting for the first."""
        ...

    async def answer(self, taken: Sequence[Any]) -> None:
        """Reply, acknowledge and delete, in one round trip."""
        ...


class Clover:
    """The bus of the product: bounded idempotent admission, envelope, fence."""

    def __init__(self, url: str, deployment: str) -> None:
        self._bus = connect(url, deployment, "bench")
        self._cursor = "0"

    async def send(self, ids: Sequence[str]) -> None:
        """Send requests."""
        now_ms = time.time() * 1e3
        await self._bus.admit(
            [
                Request(
                    id=one,
                    application="albert",
                    due_ms=now_ms,
                    deadline_ms=now_ms + 30e3,
                    reply_to="bench",
                    payload=INPUT,
                )
                for one in ids
            ],
            bound=1_000_000,
        )

    async def receive(self) -> list[str]:
        """Return ids of replies."""
        replies, self._cursor = await self._bus.replies("bench", self._cursor, block_s=1.0)
        return [reply.id for reply in replies]

    async def take(self, count: int = COUNT) -> list[Delivery]:
        """Return requests."""
        return await self._bus.pull("worker", count=count, block_s=1.0)

    async def answer(self, taken: Sequence[Delivery]) -> None:
        """Reply."""
        await self._bus.finish(
            [
                Completion(
                    delivery=delivery,
                    reply=Reply(
                        id=delivery.request.id,
                        outcome=Outcome.OK,
                        node="n1",
                        gpu=0,
                        profile="7g",
                        variant="base",
                        accuracy_pct=81.5,
                        epoch=1,
                        queue_ms=0.5,
                        service_ms=10.0,
                        energy_j=1.25,
                        energy_source="simulated",
                        payload=RESULT,
                    ),
                )
                for delivery in taken
            ]
        )


class Raw:
    """Plain redis-py: JSON in one field, no bound, no duplicates found, no fence; batched wherever it can be."""

    def __init__(self, url: str, deployment: str, consumer: str = "worker") -> None:
        self._consumer = consumer
        # With a socket timeout redis-py starts a timer for each reply of a pipeline: the leanest loop has none.
        self._client = plain_redis.Redis.from_url(url, protocol=2, socket_timeout=None)
        self._reader = plain_redis.Redis.from_url(url, protocol=2, socket_timeout=None)
        self._requests, self._replies = f"{{{deployment}}}:raw:req", f"{{{deployment}}}:raw:rep"
        self._cursor: Any = "0"
        self._input, self._result = INPUT.decode(), RESULT.decode()

    async def prepare(self) -> None:
        """Create the group."""
        try:
            await self._client.xgroup_create(self._requests, "serve", "0", mkstream=True)
        except plain_redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def send(self, ids: Sequence[str]) -> None:
        """Send requests."""
        now_ms = time.time() * 1e3
        async with self._client.pipeline(transaction=False) as pipeline:
            for one in ids:
                body = {
                    "id": one,
                    "application": "albert",
                    "due_ms": now_ms,
                    "deadline_ms": now_ms + 30e3,
                    "reply_to": "bench",
                    "payload": self._input,
                }
                pipeline.xadd(self._requests, {"d": orjson.dumps(body)})
            await pipeline.execute()

    async def receive(self) -> list[str]:
        """Return ids of replies."""
        answer = await self._reader.xread({self._replies: self._cursor}, count=1000, block=1000)
        ids: list[str] = []
        for _, entries in answer:
            ids += (orjson.loads(fields[b"d"])["id"] for _, fields in entries)
            self._cursor = entries[-1][0]
        return ids

    async def take(self, count: int = COUNT) -> list[Any]:
        """Return requests."""
        answer = await self._reader.xreadgroup("serve", self._consumer, {self._requests: ">"}, count=count, block=1000)
        return [(key, orjson.loads(fields[b"d"])) for _, entries in answer for key, fields in entries]

    async def answer(self, taken: Sequence[Any]) -> None:
        """Reply."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for _, body in taken:
                reply = {
                    "id": body["id"],
                    "outcome": "ok",
                    "node": "n1",
                    "gpu": 0,
                    "profile": "7g",
                    "variant": "base",
                    "accuracy_pct": 81.5,
                    "epoch": 1,
                    "queue_ms": 0.5,
                    "service_ms": 10.0,
                    "energy_j": 1.25,
                    "energy_source": "simulated",
                    "payload": self._result,
                }
                pipeline.xadd(self._replies, {"d": orjson.dumps(reply)}, maxlen=20_000, approximate=True)
            keys = [key for key, _ in taken]
            pipeline.xack(self._requests, "serve", *keys)
            pipeline.xdel(self._requests, *keys)
            await pipeline.execute()


class FastStream:
    """FastStream's Redis streams as its documentation has them: typed handlers, a group, replies published to a stream.

    Its handlers are called, they do not pull: `work` runs the worker, and `take` and `answer` do not exist.
    """

    def __init__(self, url: str, deployment: str) -> None:
        # Not imported above: only who compares with it needs it (the extra `bench`).
        from faststream.redis import RedisBroker, StreamSub  # noqa: PLC0415

        logging.getLogger("faststream").setLevel(logging.ERROR)
        self._stream_sub = StreamSub
        # Its pool of 100 connections, redis-py's default, refuses a window of 256.
        self._broker = RedisBroker(url, max_connections=1000, logger=None)
        self._requests, self._replies = self.requests_key(deployment), f"{{{deployment}}}:fs:rep"
        self._received: asyncio.Queue[str] = asyncio.Queue()
        self._started = False

    @staticmethod
    def requests_key(deployment: str) -> str:
        """Return the stream of its requests."""
        return f"{{{deployment}}}:fs:req"

    async def send(self, ids: Sequence[str]) -> None:
        """Send requests; a publisher has one call for each."""
        if not self._started:
            await self._start_producer()
        now_ms = time.time() * 1e3
        await asyncio.gather(*(self._send(one, now_ms) for one in ids))

    async def _send(self, one: str, now_ms: float) -> None:
        message = {
            "id": one,
            "application": "albert",
            "due_ms": now_ms,
            "deadline_ms": now_ms + 30e3,
            "reply_to": "bench",
            "payload": INPUT.decode(),
        }
        await self._broker.publish(message, stream=self._requests)

    async def _start_producer(self) -> None:
        self._started = True

        @self._broker.subscriber(stream=self._stream_sub(self._replies, last_id="0", max_records=COUNT))
        async def on_reply(message: dict[str, Any]) -> None:
            self._received.put_nowait(message["id"])

        await self._broker.start()

    async def receive(self) -> list[str]:
        """Return ids of replies."""
        ids = [await self._received.get()]
        while not self._received.empty():
            ids.append(self._received.get_nowait())
        return ids

    async def work(self, total: int, answered: Any) -> None:
        """Answer `total` requests, telling of each."""
        left = total
        over = asyncio.Event()
        source = self._stream_sub(self._requests, group="serve", consumer="worker", last_id=">", max_records=COUNT)

        @self._broker.publisher(stream=self._replies)
        @self._broker.subscriber(stream=source)
        async def on_request(message: dict[str, Any]) -> dict[str, Any]:
            nonlocal left
            left -= 1
            answered()
            if left == 0:
                over.set()
            return {
                "id": message["id"],
                "outcome": "ok",
                "node": "n1",
                "gpu": 0,
                "profile": "7g",
                "variant": "base",
                "accuracy_pct": 81.5,
                "epoch": 1,
                "queue_ms": 0.5,
                "service_ms": 10.0,
                "energy_j": 1.25,
                "energy_source": "simulated",
                "payload": RESULT.decode(),
            }

        await self._broker.start()
        await over.wait()
        await asyncio.sleep(0.2)  # the last reply is published after its handler returns
        await self._broker.stop()


def system_of(name: str, url: str, deployment: str) -> Clover | Raw | FastStream:
    """Return a system by name."""
    return {"clover": Clover, "raw": Raw, "faststream": FastStream}[name](url, deployment)
