"""A fleet on one server: 8 node processes with 7 instances each, 500 requests/s, beside plain redis-py loops.

The nodes run the product's request side (dispatch, leases, claims, sweeper and all) on workers that take 10 ms; the
plain loops have as many slots of 10 ms. Overhead is the time from sending to the reply, less those 10 ms: queueing,
scheduling and the late timers of the event loop are in it. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bus_systems import Raw, system_of

from clover.agents.pool import InstancePool
from clover.agents.requests import RequestPorts, RequestServer, RequestSettings
from clover.agents.system_clock import SystemClock
from clover.bus.embedded import EmbeddedServer
from clover.bus.messages import Request
from clover.bus.redis import RedisLink, connect
from clover.catalog import load_service
from clover.core.configuration import InstanceKind
from clover.core.identifiers import uuid7
from clover.power.account import GpuAccount
from clover.serving.port import Served
from mig.device import GpuInstance
from mig.placement import Placement
from mig.profiles import gpu_model

SERVICE_S = 0.010
#: After the last request replies are waited for this long; what is missing then is lost.
LAST_REPLIES_S = 5.0


def cpu_s() -> float:
    """Return user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# --- the roles


class TimedWorker:
    """Answers after the service time."""

    pid = None

    async def serve(self, request: Request) -> Served:
        """Answer one request."""
        del request
        await asyncio.sleep(SERVICE_S)
        return Served(content_type="text/plain", payload=b"y" * 64, service_ms=SERVICE_S * 1e3, energy_j=1.0, busy_s=0)

    async def wait_died(self) -> str:
        """Wait for ever."""
        return await asyncio.Event().wait() and ""

    async def stop(self) -> None:
        """Do nothing."""


async def clover_node(options: argparse.Namespace) -> None:
    """Run a node's request side until cancelled."""
    model = load_service("albert", "a100-40gb")
    clock = SystemClock()
    pool = InstancePool(model, clock)
    board = gpu_model("a100-40gb")
    for index in range(options.slots):
        place = Placement(start=index % 7, size=1)
        device = GpuInstance(id=index, profile=board.profile("1g"), placement=place, uuid=f"MIG-{index}")
        pool.add(0, device, InstanceKind("1g", model.application.variants[0].name), TimedWorker())
    account = GpuAccount(idle_power_w=50.0, parked_power_w=25.0, compute_slices=7, now_s=clock.now_s())
    bus = connect(options.url, options.deployment, options.name)
    ports = RequestPorts(
        node=options.name,
        consumer=f"{options.name}.{os.getpid()}",
        application=model.application,
        energy_source="simulated",
        bus=bus,
        pool=pool,
        accounts={0: account},
        clock=clock,
        rng=random.Random(options.name),
    )
    await RequestServer(ports, RequestSettings()).run()


async def raw_node(options: argparse.Namespace) -> None:
    """Run a plain loop with slots until cancelled."""
    system = Raw(options.url, options.deployment, options.name)
    await system.prepare()
    loop = asyncio.get_running_loop()
    done: deque[Any] = deque()
    news, freed = asyncio.Event(), asyncio.Event()
    busy = 0

    def finish(item: Any) -> None:
        nonlocal busy
        busy -= 1
        done.append(item)
        news.set()
        freed.set()

    async def answer() -> None:
        while True:
            await news.wait()
            news.clear()
            batch = list(done)
            done.clear()
            await system.answer(batch)

    async with asyncio.TaskGroup() as group:
        group.create_task(answer())
        while True:
            freed.clear()
            if busy >= options.slots:
                await freed.wait()
                continue
            for item in await system.take(options.slots - busy):
                busy += 1
                loop.call_later(SERVICE_S, finish, item)


async def serve(options: argparse.Namespace) -> dict[str, float]:
    """Be a node until standard input ends; return the CPU used."""
    node = asyncio.create_task((clover_node if options.system == "clover" else raw_node)(options))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    own = 0.0
    while line := await reader.readline():
        if line.strip() == b"begin":
            own = cpu_s()
        if node.done():
            node.result()
    node.cancel()
    await asyncio.gather(node, return_exceptions=True)
    return {"cpu_s": cpu_s() - own}


async def produce(options: argparse.Namespace) -> dict[str, float]:
    """Send at an even rate and time every reply."""
    system = system_of(options.system, options.url, options.deployment)
    total = int(options.rate * options.seconds)
    sent_at: dict[str, float] = {}
    overheads_s: list[float] = []
    rng = random.Random(1)
    own = cpu_s()

    async def receive() -> None:
        while len(overheads_s) < total:
            ids = await system.receive()
            now = time.perf_counter()
            overheads_s.extend(now - sent_at.pop(one) - SERVICE_S for one in ids)

    receiver = asyncio.create_task(receive())
    start, sent = time.perf_counter(), 0
    while sent < total:
        due = min(total, int((time.perf_counter() - start) * options.rate) + 1) - sent
        if due > 0:
            ids = [uuid7(time.time() * 1e3, rng) for _ in range(due)]
            sent_at.update(dict.fromkeys(ids, time.perf_counter()))
            sent += due
            await system.send(ids)
        await asyncio.sleep(max(0.0, start + sent / options.rate - time.perf_counter()))
    await asyncio.wait({receiver}, timeout=LAST_REPLIES_S)
    receiver.cancel()
    cuts = statistics.quantiles(overheads_s, n=1000)
    return {
        "sent": total,
        "lost": total - len(overheads_s),
        "overhead_p50_ms": cuts[499] * 1e3,
        "overhead_p99_ms": cuts[989] * 1e3,
        "overhead_p999_ms": cuts[998] * 1e3,
        "cpu_s": cpu_s() - own,
    }


# --- the comparison


async def started(role: str, name: str, system: str, url: str, options: argparse.Namespace) -> Any:
    """Start one role in a process of its own."""
    deployment = f"fleet-{system}"
    values = {"role": role, "name": name, "system": system, "url": url, "deployment": deployment}
    values |= {"rate": options.rate, "seconds": options.seconds, "slots": options.slots}
    arguments = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments, stdin=pipe, stdout=pipe)


async def one_run(system: str, url: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one system with its fleet."""
    link = RedisLink(url, "bench")
    nodes = [await started("node", f"n{i}", system, url, options) for i in range(options.nodes)]
    try:
        await ready(link, options.nodes)
        for node in nodes:
            node.stdin.write(b"begin\n")
        server = await server_cpu_s(link)
        producer = await started("producer", "bench", system, url, options)
        output, _ = await producer.communicate()
        server = await server_cpu_s(link) - server
        produced = json.loads(output)
        outputs = await asyncio.gather(*(node.communicate(b"end\n") for node in nodes))
        nodes_s = sum(json.loads(text)["cpu_s"] for text, _ in outputs)
    finally:
        for node in nodes:
            if node.returncode is None:
                node.kill()
                await node.wait()
    await link.command("FLUSHALL")
    await link.close()
    per_1000 = 1000.0 / produced["sent"]
    client_s = produced.pop("cpu_s") + nodes_s
    return {
        **produced,
        "client_cpu_s_per_1000": client_s * per_1000,
        "server_cpu_s_per_1000": server * per_1000,
        "total_cpu_s_per_1000": (client_s + server) * per_1000,
    }


async def ready(link: RedisLink, nodes: int) -> None:
    """Wait until every node blocks on the server."""
    async with asyncio.timeout(60):
        while True:
            lines = (await link.command("INFO", "clients")).decode().splitlines()
            if int(dict(line.split(":") for line in lines if ":" in line)["blocked_clients"]) >= nodes:
                return
            await asyncio.sleep(0.05)


async def server_cpu_s(link: RedisLink) -> float:
    """Return user and system time of the server."""
    lines = (await link.command("INFO", "cpu")).decode().splitlines()
    figures = dict(line.split(":") for line in lines if ":" in line)
    return float(figures["used_cpu_user"]) + float(figures["used_cpu_sys"])


async def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run both fleets, interleaved, and return the whole result."""
    runs: dict[str, list[dict[str, float]]] = {"raw": [], "clover": []}
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedServer(Path(directory)) as server:
            for _ in range(options.repeat):
                for system, results in runs.items():
                    results.append(await one_run(system, server.url, options))
    figures = {system: medians(results) for system, results in runs.items()}
    ratios = {name: round(figures["clover"][name] / value, 3) for name, value in figures["raw"].items() if value}
    asked = {name: getattr(options, name) for name in ("nodes", "slots", "rate", "seconds", "repeat")}
    load_1m = round(os.getloadavg()[0], 2)
    return {"schema": 1, "ratios": ratios, **asked, "cores": os.cpu_count(), "load_1m": load_1m, **figures}


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure, but the sum of what was lost."""
    figures = {name: float(f"{statistics.median(run[name] for run in runs):.4g}") for name in runs[0]}
    return figures | {"lost": sum(run["lost"] for run in runs)}


def main() -> None:
    """Compare, or play one role of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8, help="node processes")
    parser.add_argument("--slots", type=int, default=7, help="instances per node")
    parser.add_argument("--rate", type=float, default=500.0, help="requests/s")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of one run")
    parser.add_argument("--repeat", type=int, default=1, help="interleaved runs of each")
    for name in ("--role", "--name", "--system", "--url", "--deployment"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    roles = {"producer": produce, "node": serve, None: compare}
    print(json.dumps(asyncio.run(roles[options.role](options))))


if __name__ == "__main__":
    main()
