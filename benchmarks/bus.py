"""CPU, throughput and latency of a request's whole way over the bus, beside plain redis-py and FastStream.

One embedded server, one producer process, one worker process with a trivial handler; runs of the systems alternate.
Prints one JSON line: `ratios` (clover / raw, and clover / FastStream at window 256; medians of the ratios within each
round), which is what may be compared between machines, and the medians per system and load. `other_cores` says how much
of the machine somebody else used meanwhile; distrust requests/s above 0.3.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bus_systems import COUNT, FastStream, Raw, System, system_of

from clover.bus.embedded import EmbeddedServer
from clover.bus.redis import RedisLink
from clover.core.identifiers import uuid7

BATCH = 512
WARM_UP = 500
RUN_LIMIT_S = 120

# --- the roles


def cpu_s() -> float:
    """Return user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machine_busy_s() -> float:
    """Return seconds that all cores together were busy since boot (Linux)."""
    fields = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


async def server_cpu_s(link: RedisLink) -> float:
    """Return user and system time of the server."""
    lines = (await link.command("INFO", "cpu")).decode().splitlines()
    figures = dict(line.split(":") for line in lines if ":" in line)
    return float(figures["used_cpu_user"]) + float(figures["used_cpu_sys"])


@dataclass
class Flight:
    """What a producer has under way."""

    system: System
    sent_at: dict[str, float] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    async def send(self, number: int) -> None:
        """Send new requests."""
        now_ms = time.time() * 1e3
        ids = [uuid7(now_ms, self.rng) for _ in range(number)]
        now = time.perf_counter()
        self.sent_at.update(dict.fromkeys(ids, now))
        await self.system.send(ids)

    async def receive(self, number: int) -> None:
        """Collect this many replies."""
        left = number
        while left:
            ids = await self.system.receive()
            now = time.perf_counter()
            self.latencies_s += (now - self.sent_at.pop(one) for one in ids)
            left -= len(ids)
            self.news.set()

    async def closed_loop(self, number: int, window: int) -> None:
        """Keep `window` requests under way."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.receive(number))
            left = number
            while left:
                self.news.clear()
                free = min(window - len(self.sent_at), left, BATCH)
                if free > 0:
                    left -= free
                    await self.send(free)
                else:
                    await self.news.wait()

    async def open_loop(self, number: int, rate_rps: float) -> None:
        """Send at an even rate, whatever comes back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.receive(number))
            start, sent = time.perf_counter(), 0
            while sent < number:
                due = min(number, int((time.perf_counter() - start) * rate_rps) + 1) - sent
                if due > 0:
                    sent += due
                    await self.send(due)
                await asyncio.sleep(max(0.0, start + sent / rate_rps - time.perf_counter()))


async def produce(options: argparse.Namespace) -> dict[str, float]:
    """Send, collect, and return figures of the part after the warm-up."""
    flight = Flight(system_of(options.system, options.url, options.deployment))
    await flight.closed_loop(WARM_UP, min(options.window or 16, WARM_UP))
    flight.latencies_s.clear()
    link = RedisLink(options.url, "bench")
    server, busy, own, began = await server_cpu_s(link), machine_busy_s(), cpu_s(), time.perf_counter()
    if options.rate:
        await flight.open_loop(options.requests, options.rate)
    else:
        await flight.closed_loop(options.requests, options.window)
    seconds, own, busy = time.perf_counter() - began, cpu_s() - own, machine_busy_s() - busy
    server = await server_cpu_s(link) - server
    await link.close()
    cuts = statistics.quantiles(flight.latencies_s, n=100)
    return {
        "seconds": seconds,
        "requests_per_s": options.requests / seconds,
        "cpu_s": own,
        "server_cpu_s": server,
        "busy_s": busy,
        "p50_ms": cuts[49] * 1e3,
        "p99_ms": cuts[98] * 1e3,
    }


async def work(options: argparse.Namespace) -> dict[str, float]:
    """Answer everything, and return figures of the part after the warm-up."""
    system = system_of(options.system, options.url, options.deployment)
    total, answered, own = WARM_UP + options.requests, 0, 0.0

    def note(number: int = 1) -> None:
        nonlocal answered, own
        if answered < WARM_UP <= answered + number:
            own = cpu_s()
        answered += number

    if isinstance(system, FastStream):
        await system.work(total, note)
        return {"cpu_s": cpu_s() - own}
    if isinstance(system, Raw):
        await system.prepare()
    done: deque[Any] = deque()
    news = asyncio.Event()

    async def take() -> None:
        taken = 0
        while taken < total:
            batch = await system.take()
            taken += len(batch)
            done.extend(batch)
            news.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        while answered < total:
            await news.wait()
            news.clear()
            batch = list(done)
            done.clear()
            if batch:
                await system.answer(batch)
            note(len(batch))
    return {"cpu_s": cpu_s() - own}


# --- the comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How requests are sent: a window of requests under way, or a rate."""

    name: str
    requests: int
    window: int = 0
    rate_rps: float = 0.0


@asynccontextmanager
async def role(name: str, load: Load, common: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run one role in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--role",
        name,
        "--requests",
        str(load.requests),
        "--window",
        str(load.window),
        "--rate",
        str(load.rate_rps),
        *common,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def result_of(process: asyncio.subprocess.Process) -> dict[str, float]:
    """Return what a role printed."""
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"a role ended with exit code {process.returncode}")
    return json.loads(output)


async def one_run(system: str, load: Load, url: str, deployment: str) -> dict[str, float]:
    """Run one system under one load."""
    common = ("--system", system, "--url", url, "--deployment", deployment)
    try:
        async with (
            asyncio.timeout(RUN_LIMIT_S),
            role("worker", load, common) as worker,
            role("producer", load, common) as producer,
        ):
            produced, worked = await asyncio.gather(result_of(producer), result_of(worker))
    except TimeoutError:
        raise SystemExit(f"{system} under {load.name} did not end within {RUN_LIMIT_S} s") from None
    per_1000 = 1000.0 / load.requests
    client_s = produced["cpu_s"] + worked["cpu_s"]
    others_s = produced["busy_s"] - client_s - produced["server_cpu_s"]
    return {
        "requests_per_s": produced["requests_per_s"],
        "client_cpu_s_per_1000": client_s * per_1000,
        "server_cpu_s_per_1000": produced["server_cpu_s"] * per_1000,
        "total_cpu_s_per_1000": (client_s + produced["server_cpu_s"]) * per_1000,
        "p50_ms": produced["p50_ms"],
        "p99_ms": produced["p99_ms"],
        "other_cores": max(0.0, others_s) / produced["seconds"],
    }


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: float(f"{statistics.median(run[name] for run in runs):.4g}") for name in runs[0]}


def loads_of(requests: int) -> tuple[Load, ...]:
    """Return the loads, for the lean systems."""
    return (
        Load(name="window_256", requests=requests, window=256),
        Load(name="window_16", requests=requests, window=16),
        Load(name="window_1", requests=max(200, requests // 10), window=1),
        Load(name="open_200", requests=max(200, requests // 20), rate_rps=200.0),
    )


def for_system(load: Load, system: str) -> Load:
    """Return the load with a number of requests that a system finishes in seconds; figures are per request."""
    slow = system == "faststream" and not load.rate_rps
    return replace(load, requests=max(200, load.requests // 10)) if slow else load


async def compare(requests: int, repeat: int, *, durable: bool) -> dict[str, Any]:
    """Run everything and return the whole result."""
    systems = ("raw", "clover", *(("faststream",) if importlib.util.find_spec("faststream") else ()))
    loads = loads_of(requests)
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    settings = {} if durable else {"appendonly": "no"}
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedServer(Path(directory), extra=settings) as server:
            link = RedisLink(server.url, "bench")
            for number in range(repeat):
                for load in loads:
                    for system in systems:
                        deployment = f"bench-{load.name.replace('_', '-')}-{number}"
                        if system == "faststream":
                            # It would begin with what comes after its own start, and its producer may be earlier.
                            requests_key = FastStream.requests_key(deployment)
                            await link.command("XGROUP", "CREATE", requests_key, "serve", "0", "MKSTREAM")
                        run = await one_run(system, for_system(load, system), server.url, deployment)
                        runs.setdefault((load.name, system), []).append(run)
                        await link.command("FLUSHALL")
            await link.close()
    return {
        "schema": 1,
        "ratios": ratios(runs),
        "requests": requests,
        "repeat": repeat,
        "durable": durable,
        "count": COUNT,
        "cores": os.cpu_count(),
        **{load.name: {system: medians(runs[load.name, system]) for system in systems} for load in loads},
    }


def ratios(runs: dict[tuple[str, str], list[dict[str, float]]]) -> dict[str, float | None]:
    """Return what the bus is measured by; None without FastStream."""

    def ratio(load: str, figure: str, other: str) -> float | None:
        pairs = zip(runs[load, "clover"], runs.get((load, other), []), strict=False)
        values = [ours[figure] / theirs[figure] for ours, theirs in pairs]
        return round(statistics.median(values), 3) if values else None

    return {
        "client_cpu_w256": ratio("window_256", "client_cpu_s_per_1000", "raw"),
        "client_cpu_w16": ratio("window_16", "client_cpu_s_per_1000", "raw"),
        "client_cpu_w1": ratio("window_1", "client_cpu_s_per_1000", "raw"),
        "total_cpu_w256": ratio("window_256", "total_cpu_s_per_1000", "raw"),
        "rps_w256": ratio("window_256", "requests_per_s", "raw"),
        "p50_200": ratio("open_200", "p50_ms", "raw"),
        "faststream_cpu": ratio("window_256", "client_cpu_s_per_1000", "faststream"),
        "faststream_rps": ratio("window_256", "requests_per_s", "faststream"),
    }


def main() -> None:
    """Compare, or play one role of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="requests per closed-loop run")
    parser.add_argument("--repeat", type=int, default=3, help="interleaved runs of each kind; medians are printed")
    parser.add_argument("--volatile", action="store_true", help="without the server's append-only file")
    parser.add_argument("--json", action="store_true", default=True, help="one JSON line (the default)")
    for name in ("--role", "--system", "--url", "--deployment"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is None:
        result = asyncio.run(compare(options.requests, options.repeat, durable=not options.volatile))
    else:
        result = asyncio.run(produce(options) if options.role == "producer" else work(options))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
