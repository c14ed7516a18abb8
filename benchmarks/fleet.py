"""Eight node processes of seven instances on one server, 500 requests/s: what the bus adds, beside the leanest loop.

Clover's part are the product's own processes (node agents, controller, carbon monitor, generator) with simulated
instances; the raw part are as many workers and a producer with plain redis-py streams (controller and monitor have no
counterpart there, and count): workers take as many requests as they have free slots, sleep as long, and reply,
acknowledge and delete in one pipeline. Arrivals (Poisson), service times
(10 ms, half of it log-normal with sigma 0.3) and their waiting (asyncio) are the same. Both take turns.

Overhead is due time to receipt minus the service time: all that is not work, waiting for a free instance included (at
9 % load hardly any). Prints one JSON line; `ratios` is clover / raw. Exits 11 if a request was lost or doubled, 10 if a
ratio is above 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import redis.asyncio as plain_redis  # noqa: TID251 - the loop that ours is compared with

from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import RequestLog, RequestRecord
from clover.bus.redis import RedisBus, RedisLink
from clover.bus.values import Feed
from clover.sim.faults.rig import Rig, RigSettings

NODES, SLOTS = 8, 7
SERVICE_MS = 10.0
WARM_UP_S = 5.0
WORST_RATIO = 2.0
_REQUESTS, _REPLIES = "{raw}:req", "{raw}:rep"


# --- figures


def process_cpu_s(pid: int) -> float:
    """Return user and system time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_busy_s() -> float:
    """Return seconds that all cores together were busy since boot (Linux)."""
    fields = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


class Meter:
    """CPU of clients, server and everybody else from its making on."""

    def __init__(self, clients: Sequence[int], server: int) -> None:
        self._clients, self._server = clients, server
        self._began = (self._now(), time.perf_counter())

    def _now(self) -> tuple[float, float, float]:
        return sum(process_cpu_s(pid) for pid in self._clients), process_cpu_s(self._server), machine_busy_s()

    def read(self, requests: int) -> dict[str, float]:
        """Return figures per 1000 requests, and how many cores others used."""
        (client, server, busy), (then, began) = self._now(), self._began
        client, server, busy = client - then[0], server - then[1], busy - then[2]
        others = max(0.0, busy - client - server) / (time.perf_counter() - began)
        per_1000 = 1000.0 / max(1, requests)
        return {
            "client_cpu_s_per_1000": client * per_1000,
            "server_cpu_s_per_1000": server * per_1000,
            "other_cores": others,
        }


def quantiles(overheads_ms: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile."""
    cuts = statistics.quantiles(overheads_ms, n=100)
    return {"overhead_p50_ms": cuts[49], "overhead_p99_ms": cuts[98]}


# --- clover


async def run_clover(folder: Path, seconds: float, rate_rps: float, seed: int) -> dict[str, Any]:
    """Run the deployment and return its figures."""
    settings = RigSettings(
        folder=folder,
        nodes=NODES,
        controllers=1,
        service_ms=SERVICE_MS,
        load=rate_rps * SERVICE_MS / 1e3 / (NODES * SLOTS),
        misdelivery=0.0,
        proxied=False,
        record=False,
        seed=seed,
    )
    async with Rig(settings) as rig, asyncio.TaskGroup() as group:
        await rig.start(group)
        await asyncio.sleep(WARM_UP_S)
        began_ms = time.time() * 1e3
        meter = Meter([agent.pid for agent in rig.agents.values()], rig.server.pid)
        await asyncio.sleep(seconds)
        ended_ms = time.time() * 1e3
        cpu = meter.read(round(rate_rps * seconds))
        await rig.stop_load(limit_s=120.0)
        logs = await request_logs(rig.bus)
        queue = await rig.bus.queue()
        rig.stop_keeping()
    records = [record for log in logs for record in log.records]
    measured = [record for record in records if began_ms <= record.due_ms < ended_ms]
    return {
        "sent": logs[-1].sent,
        "ended": len(records),
        "lost": sum(record.outcome.value == "lost" for record in records) + logs[-1].sent - len(records),
        "unanswered": sum(not record.outcome.answered for record in records),
        "duplicates": logs[-1].duplicates,
        "left_in_streams": queue.waiting + queue.pending,
        "requests": len(measured),
        **quantiles([overhead_ms(record) for record in measured if record.outcome.answered]),
        "reply_path_p99_ms": statistics.quantiles([reply_path_ms(r) for r in measured if r.outcome.answered], n=100)[
            98
        ],
        **cpu,
    }


async def request_logs(bus: RedisBus) -> list[RequestLog]:
    """Return everything that the generator wrote about its requests."""
    logs: list[RequestLog] = []
    cursor = "0"
    while entries := await bus.follow({Feed.LOG: cursor}, block_s=0.0):
        cursor = entries[-1].id
        logs += [entry.message for entry in entries if isinstance(entry.message, RequestLog)]
    return logs


def overhead_ms(record: RequestRecord) -> float:
    """Return all of a request's time that was not service."""
    return (record.latency_ms or 0.0) - record.service_ms


def reply_path_ms(record: RequestRecord) -> float:
    """Return the time from the end of the work to receipt: latency minus service and queue."""
    return (record.latency_ms or 0.0) - record.service_ms - record.queue_ms


# --- raw


async def raw_worker(url: str, name: str, seed: int) -> None:
    """Serve until killed: COUNT = free slots, everything that is done in one pipeline."""
    reader = plain_redis.Redis.from_url(url, protocol=2, socket_timeout=None)
    writer = plain_redis.Redis.from_url(url, protocol=2, socket_timeout=None)
    rng = random.Random(seed)
    free, news = SLOTS, asyncio.Event()
    done: list[tuple[bytes, dict[str, Any]]] = []
    freed = asyncio.Event()

    async def serve(key: bytes, body: dict[str, Any]) -> None:
        nonlocal free
        service_ms = SERVICE_MS / 2 + SERVICE_MS / 2 * math.exp(rng.gauss(-(0.3**2) / 2, 0.3))
        await asyncio.sleep(service_ms / 1e3)
        free += 1
        freed.set()
        done.append((key, {"id": body["id"], "outcome": "ok", "service_ms": service_ms, "node": name}))
        news.set()

    async def answer() -> None:
        while True:
            await news.wait()
            news.clear()
            batch = done[:]
            done.clear()
            async with writer.pipeline(transaction=False) as pipeline:
                for _, body in batch:
                    pipeline.xadd(_REPLIES, {"d": orjson.dumps(body)}, maxlen=20_000, approximate=True)
                pipeline.xack(_REQUESTS, "serve", *(key for key, _ in batch))
                pipeline.xdel(_REQUESTS, *(key for key, _ in batch))
                await pipeline.execute()

    async with asyncio.TaskGroup() as group:
        group.create_task(answer())
        while True:
            freed.clear()
            if free == 0:
                await freed.wait()
            taken = await reader.xreadgroup("serve", name, {_REQUESTS: ">"}, count=free, block=1000)
            for _, entries in taken:
                for key, fields in entries:
                    free -= 1
                    group.create_task(serve(key, orjson.loads(fields[b"d"])))


async def raw_producer(url: str, seconds: float, rate_rps: float, seed: int) -> dict[str, Any]:
    """Send on a Poisson schedule, collect, and return overheads of what became due after the warm-up."""
    writer = plain_redis.Redis.from_url(url, protocol=2, socket_timeout=None)
    reader = plain_redis.Redis.from_url(url, protocol=2, socket_timeout=None)
    rng = random.Random(seed)
    due_at: dict[str, float] = {}
    overheads: list[float] = []
    to_send: list[str] = []
    news, over = asyncio.Event(), asyncio.Event()
    began = time.time()
    measured_from = began + WARM_UP_S
    sent = 0

    async def send() -> None:
        while True:
            await news.wait()
            news.clear()
            batch = to_send[:]
            to_send.clear()
            async with writer.pipeline(transaction=False) as pipeline:
                for one in batch:
                    pipeline.xadd(_REQUESTS, {"d": orjson.dumps({"id": one, "due": due_at[one]})})
                await pipeline.execute()

    async def receive() -> None:
        cursor: Any = "0"
        while not (over.is_set() and not due_at):
            for _, entries in await reader.xread({_REPLIES: cursor}, count=1000, block=1000):
                now = time.time()
                cursor = entries[-1][0]
                for _, fields in entries:
                    reply = orjson.loads(fields[b"d"])
                    due = due_at.pop(reply["id"])
                    if due >= measured_from:
                        overheads.append((now - due) * 1e3 - reply["service_ms"])

    async with asyncio.timeout(seconds + WARM_UP_S + 120.0), asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        receiving = group.create_task(receive())
        due = began
        while (due := due + rng.expovariate(rate_rps)) < measured_from + seconds:
            await asyncio.sleep(max(0.0, due - time.time()))
            sent += 1
            due_at[str(sent)] = due
            to_send.append(str(sent))
            news.set()
        over.set()
        await receiving
        sending.cancel()
    return {"sent": sent, "requests": len(overheads), **quantiles(overheads)}


async def run_raw(folder: Path, seconds: float, rate_rps: float, seed: int) -> dict[str, Any]:
    """Run as many processes and return their figures."""
    async with EmbeddedServer(folder) as server:
        link = RedisLink(server.url, "bench")
        await link.command("XGROUP", "CREATE", _REQUESTS, "serve", "0", "MKSTREAM")
        common = ["--url", server.url, "--seconds", str(seconds), "--rate", str(rate_rps)]
        workers = [await role("worker", *common, "--seed", str(seed * 100 + number)) for number in range(NODES)]
        # Fairness: nobody is still importing when the measurement begins.
        await asyncio.sleep(2.0)
        producer = await role("producer", *common, "--seed", str(seed))
        try:
            await asyncio.sleep(WARM_UP_S + 1.0)
            meter = Meter([process.pid for process in [*workers, producer]], server.pid)
            await asyncio.sleep(max(0.1, seconds - 2.0))
            cpu = meter.read(round(rate_rps * max(0.1, seconds - 2.0)))
            output, _ = await producer.communicate()
        finally:
            for process in [*workers, producer]:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            await link.close()
    return {**json.loads(output), **cpu}


async def role(name: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start one role of the raw loop as a process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--role", name, *arguments, stdout=asyncio.subprocess.PIPE
    )


# --- the comparison


async def compare(seconds: float, rate_rps: float, repeat: int) -> dict[str, Any]:
    """Run both in turns and return the whole result."""
    runs: dict[str, list[dict[str, Any]]] = {"raw": [], "clover": []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(repeat):
            for name, run in (("raw", run_raw), ("clover", run_clover)):
                folder = Path(directory) / f"{name}-{number}"
                folder.mkdir()
                runs[name].append(await run(folder, seconds, rate_rps, number))
    medians = {
        name: {key: float(f"{statistics.median(one[key] for one in found):.4g}") for key in found[0]}
        for name, found in runs.items()
    }
    for key in ("lost", "unanswered", "duplicates", "left_in_streams"):
        medians["clover"][key] = sum(one[key] for one in runs["clover"])
    compared = ("overhead_p50_ms", "overhead_p99_ms", "client_cpu_s_per_1000", "server_cpu_s_per_1000")
    return {
        "schema": 1,
        "nodes": NODES,
        "instances": NODES * SLOTS,
        "rate_rps": rate_rps,
        "seconds": seconds,
        "repeat": repeat,
        "cores": os.cpu_count(),
        **medians,
        "ratios": {key: round(medians["clover"][key] / medians["raw"][key], 3) for key in compared},
    }


def main() -> None:
    """Compare, or play one role of the raw loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time of each run (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=500.0, help="requests/s (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="interleaved runs of each kind; medians are printed")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "worker":
        asyncio.run(raw_worker(options.url, f"w{options.seed}", options.seed))
    elif options.role == "producer":
        print(json.dumps(asyncio.run(raw_producer(options.url, options.seconds, options.rate, options.seed))))
    else:
        result = asyncio.run(compare(options.seconds, options.rate, options.repeat))
        print(json.dumps(result))
        clover = result["clover"]
        if clover["lost"] or clover["duplicates"] or clover["left_in_streams"]:
            sys.exit(11)
        if max(result["ratios"].values()) > WORST_RATIO:
            sys.exit(10)


if __name__ == "__main__":
    main()
