"""What share of a core the dashboard takes: a large fleet's messages are folded and drawn as it does, and measured.

    python benchmarks/dashboard.py [--gpus 100 --rate 1000 --seconds 60]

Prints one JSON line per page and size. The messages are made and encoded before the clock starts; then each second's
are decoded and folded, and two pictures a second are drawn to a terminal that throws them away. A share is processor
time over the time that the messages cover; it must stay below 0.15.
"""

from __future__ import annotations

import argparse
import io
import time

import msgspec
import orjson
from rich.console import Console

from cli.dashboard import ViewOptions, view
from cli.dashboard_screen import Screen
from clover.analysis.view import DeploymentView
from clover.bus.codec import decode, encode
from clover.bus.envelope import VERSION
from clover.bus.messages import (
    EnergyCounters,
    Event,
    GpuTelemetry,
    InstanceTelemetry,
    IntensityReading,
    LedgerReading,
    Message,
    NodeTelemetry,
    RequestLog,
    RequestRecord,
)
from clover.core.outcome import ProducerOutcome

START_MS = 1_790_000_000_000.0
GPUS_PER_NODE = 8
VARIANTS = ("base", "large", "xlarge", "xxlarge")


def entries(message: Message) -> list[bytes]:
    """Return a message as the fields of a stream entry."""
    kind, header = encode(message)
    return [b"v", VERSION.encode(), b"t", kind.encode(), b"d", header]


def telemetry(node: int, gpus: int, second: int) -> NodeTelemetry:
    """Return one node's telemetry: seven small instances on each GPU, the most there can be."""

    def instance(gpu: int, start: int) -> InstanceTelemetry:
        return InstanceTelemetry(
            profile="1g", start=start, size=1, uuid=f"MIG-{node}-{gpu}-{start}", variant=VARIANTS[(gpu + start) % 4],
            phase="busy", served=10 * second, busy_s=0.1 * (start + 1) * second,
        )  # fmt: skip

    return NodeTelemetry(
        node=f"n{node}", boot_id="b", booted_at_ms=START_MS, at_ms=START_MS + 1e3 * second, interval_s=1.0,
        backend="sim", gpu_model="a100-40gb", application="albert", epoch=1, applied_epoch=1, begun={}, in_flight=20,
        gpus=tuple(
            GpuTelemetry(
                index=gpu, uuid=f"GPU-{node}-{gpu}", phase="serving", reason="epoch 1", since_ms=START_MS,
                applied_epoch=1, instances=tuple(instance(gpu, start) for start in range(7)),
                energy=EnergyCounters(idle_j=50.0 * second, requests_j={"base": 100.0 * second}),
            )
            for gpu in range(gpus)
        ),
    )  # fmt: skip


def requests(second: int, rate: int) -> list[RequestLog]:
    """Return a second's requests in batches of 250, as the producer writes them."""
    records = [
        RequestRecord(
            id=f"{second}-{i}", due_ms=START_MS + 1e3 * (second + i / rate) - 80.0,
            received_ms=START_MS + 1e3 * (second + i / rate), outcome=ProducerOutcome.OK, latency_ms=60.0 + i % 97,
            node="n1", gpu=1, profile="1g", variant=VARIANTS[i % 4], accuracy_pct=85.0, epoch=1, service_ms=50.0,
            energy_j=20.0,
        )
        for i in range(rate)
    ]  # fmt: skip
    return [
        RequestLog(producer="g", sent=rate * second, duplicates=0, records=tuple(records[at : at + 250]))
        for at in range(0, rate, 250)
    ]


def a_second(second: int, gpus: int, rate: int) -> list[list[bytes]]:
    """Return all messages of a second, as entries."""
    nodes = -(-gpus // GPUS_PER_NODE)
    told: list[Message] = [
        telemetry(node, min(GPUS_PER_NODE, gpus - GPUS_PER_NODE * node), second) for node in range(nodes)
    ]
    told += requests(second, rate)
    energy_j = 150.0 * gpus * second
    told.append(
        LedgerReading(
            at_ms=START_MS + 1e3 * second,
            energy_j=energy_j,
            footprint_g=energy_j / 1.2e4,
            by_cause_j={"idle": energy_j},
        )
    )
    if second % 20 == 0:
        told.append(
            IntensityReading(
                g_per_kwh=250.0 + second, zone="Z", from_ms=START_MS + 1e3 * second,
                to_ms=START_MS + 1e3 * (second + 20), kind="average", factor="unknown",
                status="trace", source="trace:x", fallback_level=0,
                published_at_ms=START_MS + 1e3 * second, pue=1.5,
            )
        )  # fmt: skip
        told.append(Event(at_ms=START_MS + 1e3 * second, kind="gpu.serving", source="node:n1", subject="n1/gpu0"))
    return [entries(message) for message in told]


def measure(page: str, size: tuple[int, int], seconds: list[list[list[bytes]]]) -> dict[str, object]:
    """Fold and draw; return what it took."""
    folded = DeploymentView()
    console = Console(file=io.StringIO(), width=size[0], height=size[1], force_terminal=True, color_system="truecolor")
    screen, options = Screen(console), ViewOptions(page=page, variants=VARIANTS)
    fold_s = draw_s = 0.0
    slowest_s = 0.0
    for number, second in enumerate(seconds, start=1):
        before_s = time.process_time()
        for fields in second:
            folded.take(decode(fields), now_ms=START_MS + 1e3 * number)
        fold_s += time.process_time() - before_s
        for half in (0.0, 500.0):
            before_s = time.process_time()
            screen.draw(view(folded.snapshot(START_MS + 1e3 * number + half), *size, options))
            took_s = time.process_time() - before_s
            draw_s, slowest_s = draw_s + took_s, max(slowest_s, took_s)
        console.file.truncate(0)
    covered = len(seconds)
    return {
        "figure": "dashboard", "page": page, "size": f"{size[0]}x{size[1]}", "seconds": covered,
        "fold_share": round(fold_s / covered, 4), "draw_share": round(draw_s / covered, 4),
        "share_of_core": round((fold_s + draw_s) / covered, 4), "slowest_frame_ms": round(1e3 * slowest_s, 1),
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    seconds = [a_second(second, asked.gpus, asked.rate) for second in range(1, asked.seconds + 1)]
    kept = {"gpus": asked.gpus, "rate_rps": asked.rate, "instances": 7 * asked.gpus, "msgspec": msgspec.__version__}
    for page, size in (("overview", (80, 24)), ("overview", (200, 60)), ("gpus", (200, 60)), ("requests", (120, 40))):
        print(orjson.dumps({**measure(page, size, seconds), **kept}).decode(), flush=True)


if __name__ == "__main__":
    main()
