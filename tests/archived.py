"""Runs that are archived, for the tests of what reads them."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from clover.agents.fleet import Fleet
from clover.agents.goals import Goals
from clover.analysis.logs.files import ArchiveFiles
from clover.bus.memory import MemoryBus
from clover.bus.messages import RequestLog, RequestRecord
from clover.catalog import load_service, load_trace
from clover.core.outcome import ProducerOutcome
from clover.sim.world import WorldSettings, simulate
from mig.profiles import gpu_model

START_MS = 1_700_000_000_000.0


@cache
def settings(scheme: str) -> WorldSettings:
    model = load_service("albert", "a100-40gb")
    return WorldSettings(
        fleet=Fleet(backend="sim", model=model, board=gpu_model("a100-40gb")),
        gpus=(1, 1),
        scheme=scheme,
        goals=Goals(sla_ms=model.table.sla_p95_ms, lambda_=0.5),
        trace=load_trace("ciso-march"),
        hour_s=20.0,
        rate_rps=8.0,
        duration_s=240.0,
        seed=3,
    )


def simulated_run(folder: Path, scheme: str = "co2opt") -> dict[str, Any]:
    """Simulate a run in virtual time and leave its folder as `clover up` would."""
    result = simulate(settings(scheme), archive=folder / "archive")
    (folder / "summary.json").write_text(json.dumps(result))
    return result


def memory_bus() -> MemoryBus:
    return MemoryBus("archived", lambda: START_MS)


def a_log(*ids: str, producer: str = "generator", sent: int = 0, outcome: str = "ok") -> RequestLog:
    records = tuple(
        RequestRecord(
            id=name, due_ms=START_MS, received_ms=START_MS + 50.0, outcome=ProducerOutcome(outcome), latency_ms=50.0,
            node="n1", gpu=0, profile="7g", variant="base", accuracy_pct=83.2, epoch=1, queue_ms=1.0, service_ms=49.0,
            energy_j=0.5,
        )
        for name in ids
    )  # fmt: skip
    return RequestLog(producer=producer, sent=sent or len(ids), duplicates=0, records=records)


def opened(folder: Path, deployment: str = "archived") -> ArchiveFiles:
    return ArchiveFiles(folder, deployment=deployment, now_ms=START_MS)


@contextmanager
def full_disk(least_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a full disk does to whoever writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (least_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def archived_rows(run: Path) -> int:
    """Return how many requests the archive of a run holds by now."""
    path = run / "archive" / "manifest.json"
    if not path.exists():
        return 0
    return sum(segment["rows"] for segment in json.loads(path.read_text())["tables"].get("requests", []))
