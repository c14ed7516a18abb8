"""Logs at scale: does the archive keep up, does the service feel it, how long do export and report take?

    python benchmarks/logs.py [--rows 1000000] [--rate 2000] [--seconds 60] [--rounds 3]

Prints JSON lines:

- `archive`: an embedded server, a producer of finished requests at `--rate`, and a probe that admits, pulls and
  finishes a request of its own a hundred times a second, the service's way; rounds with and without the archive
  alternate. `archive_core` is processor seconds of the archive's process per second, `behind_entries` what it had not
  read when the producer stopped, `p95_ratio` the probe's p95 with / without it (median over the rounds).
- `catch_up`: rows/s at which the archive reads a backlog.
- `export`, `query`, `report`: seconds for a run of `--rows` requests, in a process of their own.

`other_cores` says how much of the machine somebody else used; distrust ratios above 0.3.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bus import cpu_s, machine_busy_s, server_cpu_s

from clover.analysis.logs.archiver import Archiver
from clover.analysis.logs.files import ArchiveFiles
from clover.analysis.logs.manifest import read_manifest
from clover.bus.embedded import EmbeddedServer
from clover.bus.memory import MemoryBus
from clover.bus.messages import (
    Event,
    IntensityReading,
    LedgerReading,
    Reply,
    Request,
    RequestLog,
    RequestRecord,
)
from clover.bus.port import Bus
from clover.bus.redis import RedisLink, connect
from clover.bus.values import Completion, Feed
from clover.core.identifiers import uuid7
from clover.core.outcome import Outcome, ProducerOutcome

BATCH = 500
FLUSH_S = 0.25
PROBES_PER_S = 100
VARIANTS = (("base", 83.2, 0.5), ("large", 85.2, 2.0), ("xlarge", 87.1, 6.0), ("xxlarge", 89.1, 14.0))


def record(rng: random.Random, due_ms: float) -> RequestRecord:
    """Return a finished request as a generator writes it."""
    variant, accuracy_pct, energy_j = VARIANTS[min(3, int(rng.expovariate(1.2)))]
    service_ms = rng.lognormvariate(3.8, 0.4)
    queue_ms = rng.expovariate(1 / 8.0)
    latency_ms = service_ms + queue_ms
    return RequestRecord(
        id=uuid7(due_ms, rng), due_ms=due_ms, received_ms=due_ms + latency_ms,
        outcome=ProducerOutcome.LATE if latency_ms > 165.0 else ProducerOutcome.OK, latency_ms=latency_ms,
        node=f"n{rng.randrange(4)}", gpu=rng.randrange(8), profile=rng.choice(("1g", "2g", "3g", "7g")),
        variant=variant, accuracy_pct=accuracy_pct, epoch=3, queue_ms=queue_ms, service_ms=service_ms,
        energy_j=energy_j * rng.uniform(0.9, 1.1),
    )  # fmt: skip


def log_of(records: list[RequestRecord], sent: int) -> RequestLog:
    """Return a batch of records."""
    return RequestLog(producer="generator", sent=sent, duplicates=0, records=tuple(records))


async def produce(bus: Bus, rate: float, seconds: float) -> int:
    """Write finished requests at a rate, as a generator flushes them; return how many."""
    rng, loop, sent = random.Random(1), asyncio.get_running_loop(), 0
    began = loop.time()
    for step in range(int(seconds / FLUSH_S)):
        await asyncio.sleep(max(0.0, began + (step + 1) * FLUSH_S - loop.time()))
        now_ms = time.time() * 1e3
        due = [record(rng, now_ms) for _ in range(int(rate * FLUSH_S))]
        sent += len(due)
        batches = [due[first : first + BATCH] for first in range(0, len(due), BATCH)]
        await bus.publish(Feed.LOG, [log_of(batch, sent) for batch in batches])
    return sent


async def probe(bus: Bus, seconds: float) -> list[float]:
    """Send requests through admission, stream and reply; return latencies in ms from when each was due."""
    rng, loop = random.Random(2), asyncio.get_running_loop()
    latencies: list[float] = []
    began = loop.time()
    for number in range(int(seconds * PROBES_PER_S)):
        due = began + number / PROBES_PER_S
        await asyncio.sleep(max(0.0, due - loop.time()))
        now_ms = time.time() * 1e3
        request = Request(id=uuid7(now_ms, rng), application="bench", due_ms=now_ms, deadline_ms=now_ms + 60_000.0,
                          reply_to="probe")  # fmt: skip
        await bus.admit([request], bound=1000)
        for delivery in await bus.pull("probe", count=1, block_s=1.0):
            reply = Reply(id=delivery.request.id, outcome=Outcome.OK)
            await bus.finish([Completion(delivery=delivery, reply=reply)])
        latencies.append(1e3 * (loop.time() - due))
    return latencies


async def probe_aside(url: str, seconds: float) -> list[float]:
    """Run the probe as a process of its own, so that it feels the service and not the producer beside it."""
    command = [sys.executable, __file__, "--probe", url, "--seconds", str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return json.loads(out)


async def probe_alone(url: str, seconds: float) -> list[float]:
    """Be that process."""
    bus = connect(url, "bench", "probe")
    try:
        return await probe(bus, seconds)
    finally:
        await bus.close()


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return sorted(values)[int(0.95 * len(values))]


async def archive_round(folder: Path, *, rate: float, seconds: float, archived: bool) -> dict[str, Any]:
    """Run producer and probe, with the archive beside them or without it."""
    async with EmbeddedServer(folder / "data") as server:
        producer = connect(server.url, "bench", "producer")
        process = None
        if archived:
            command = [sys.executable, "-m", "cli", "logs", "archive", str(folder / "archive"), "--deployment", "bench"]
            process = await asyncio.create_subprocess_exec(
                *command, "--redis", server.url, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            async with asyncio.timeout(60.0):
                while read_manifest(folder / "archive") is None:  # noqa: ASYNC110 - the other side is a process
                    await asyncio.sleep(0.05)
        link = RedisLink(server.url, "bench-cpu")
        before, busy, own = time.perf_counter(), machine_busy_s(), await _known_cpu_s(link)
        sent, latencies = await asyncio.gather(produce(producer, rate, seconds), probe_aside(server.url, seconds))
        took = time.perf_counter() - before
        known = (await _known_cpu_s(link) - own) / took
        told = {"p95_ms": p95(latencies), "requests": sent, "other_cores": (machine_busy_s() - busy) / took - known}
        if process is not None:
            told |= await _end_archive(process, folder, producer, took, sent)
            told["other_cores"] -= told["archive_core"]
        await link.close()
        await producer.close()
    return told


async def _known_cpu_s(link: RedisLink) -> float:
    """Return processor seconds of this process, of its children that have ended (the probe), and of the server."""
    times = os.times()
    return cpu_s() + times.children_user + times.children_system + await server_cpu_s(link)


async def _end_archive(
    process: asyncio.subprocess.Process, folder: Path, bus: Bus, took: float, sent: int
) -> dict[str, Any]:
    manifest = read_manifest(folder / "archive")
    extent = await bus.extent(Feed.LOG)
    behind = extent.added - (manifest.feeds["log"].entries if manifest else 0)
    core = await asyncio.to_thread(_cpu_of, process.pid) / took
    process.send_signal(signal.SIGTERM)
    await process.wait()
    done = read_manifest(folder / "archive")
    rows = done.rows("requests") if done else 0
    return {"behind_entries": behind, "archive_core": core, "rows": rows, "complete": rows == sent,
            "gaps": len(done.gaps) if done else None}  # fmt: skip


def _cpu_of(pid: int) -> float:
    """Return processor seconds of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def archive_rounds(rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Alternate rounds with and without the archive."""
    with_it, without = [], []
    for _ in range(rounds):
        for archived, found in ((False, without), (True, with_it)):
            with tempfile.TemporaryDirectory() as folder:
                found.append(await archive_round(Path(folder), rate=rate, seconds=seconds, archived=archived))
    ratios = [a["p95_ms"] / b["p95_ms"] for a, b in zip(with_it, without, strict=True)]
    return {
        "benchmark": "archive",
        "rate_rps": rate,
        "seconds": seconds,
        "rounds": rounds,
        "p95_ratio": statistics.median(ratios),
        "p95_ratios": ratios,
        "p95_ms": {
            "with": statistics.median(r["p95_ms"] for r in with_it),
            "without": statistics.median(r["p95_ms"] for r in without),
        },
        "archive_core": statistics.median(r["archive_core"] for r in with_it),
        "behind_entries": max(r["behind_entries"] for r in with_it),
        "complete": all(r["complete"] for r in with_it),
        "gaps": sum(r["gaps"] for r in with_it),
        "other_cores": statistics.median(r["other_cores"] for r in [*with_it, *without]),
    }


# --- a large run ----------------------------------------------------------------------------------------------------


async def large_run(folder: Path, rows: int) -> dict[str, Any]:
    """Archive a run of so many requests from memory; return how fast that was."""
    rng, now_ms = random.Random(3), 1_790_000_000_000.0
    bus = MemoryBus("bench", lambda: now_ms)
    span_ms = 1e3 * rows / 2000.0
    await bus.publish(Feed.EVENTS, [Event(at_ms=now_ms, kind="generator.started", source="g", subject="generator",
                                          data={"arrivals": "poisson, open loop"})])  # fmt: skip
    for step in range(int(span_ms / 1e3) + 1):
        at_ms = now_ms + 1e3 * step
        grid = IntensityReading(
            g_per_kwh=250.0 + 100.0 * rng.random(), zone="Z", from_ms=at_ms, to_ms=at_ms + 1e3, kind="average",
            factor="lifecycle", status="trace", source="trace:bench", fallback_level=0, published_at_ms=at_ms, pue=1.5,
        )  # fmt: skip
        used_j = 1e3 * step
        reading = LedgerReading(at_ms=at_ms, energy_j=used_j, footprint_g=0.1 * step, by_cause_j={"requests": used_j},
                                answered=2000 * step)  # fmt: skip
        await bus.publish(Feed.CARBON, [grid, reading])
    dues = sorted(now_ms + span_ms * rng.random() for _ in range(rows))
    for first in range(0, rows, BATCH):
        batch = [record(rng, due) for due in dues[first : first + BATCH]]
        await bus.publish(Feed.LOG, [log_of(batch, first + len(batch))])
    await bus.publish(Feed.EVENTS, [Event(at_ms=now_ms + span_ms, kind="generator.finished", source="g",
                                          subject="generator", data={"sent": rows})])  # fmt: skip
    began = time.perf_counter()
    with ArchiveFiles(folder / "archive", deployment="bench", now_ms=now_ms) as files:
        stop = asyncio.Event()
        stop.set()
        await Archiver(bus, files, lambda: now_ms).run(stop)
    took = time.perf_counter() - began
    done = read_manifest(folder / "archive")
    size = sum(segment.bytes for segments in done.tables.values() for segment in segments) if done else 0
    return {"benchmark": "catch_up", "rows": rows, "seconds": took, "rows_per_s": rows / took, "parquet_bytes": size}


def timed(name: str, rows: int, *arguments: str) -> dict[str, Any]:
    """Run a command and return how long it took."""
    began, cpu = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "cli", *arguments], check=True, capture_output=True)
    after = os.times()
    cpu_used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return {"benchmark": name, "rows": rows, "seconds": time.perf_counter() - began, "cpu_s": cpu_used}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probe", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("archive", "large"))
    chosen = parser.parse_args()
    if chosen.probe:
        print(json.dumps(asyncio.run(probe_alone(chosen.probe, chosen.seconds))))
        return
    if chosen.only != "large":
        print(json.dumps(asyncio.run(archive_rounds(chosen.rate, chosen.seconds, chosen.rounds))), flush=True)
    if chosen.only != "archive":
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "run"
            print(json.dumps(asyncio.run(large_run(folder, chosen.rows))), flush=True)
            for form in ("parquet", "jsonl", "csv"):
                export = ("logs", "export", str(folder), str(Path(name) / form), "--format", form)
                print(json.dumps(timed(f"export.{form}", chosen.rows, *export)), flush=True)
            query = "select variant, quantile_cont(latency_ms, 0.95) from requests group by all"
            print(json.dumps(timed("query", chosen.rows, "query", query, "--run", str(folder))), flush=True)
            print(json.dumps(timed("report", chosen.rows, "report", str(folder))), flush=True)


if __name__ == "__main__":
    main()
