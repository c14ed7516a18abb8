"""What users feel of a change: all GPUs from 1 x 7g to 7 x 1g and back under load, rolled and as the original does it.

Two nodes of four simulated GPUs, real processes on a real server; albert's smallest variant (`base`) at 60 % of the
capacity of the eight whole GPUs (`--load capacity`), or at 90 % of the highest load that seven of the eight serve
within the SLA (`--load seven`). Counted are the requests due between the first command to drain and the last instance
ready. Prints one JSON line per change; exits 11 if a request was lost, 10 if the rolled ones have late_pct above 6.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from clover.agents.fleet import make_fleet
from clover.catalog import load_service
from clover.core.configuration import GpuConfiguration, InstanceKind
from clover.sim.rolling.change import rolling_change
from clover.sim.rolling.settings import RollingSettings, capacity, highest_rate

LATE_LIMIT_PCT = 6.0
NODES = (4, 4)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--load", choices=["capacity", "seven"], default="capacity")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    model = load_service("albert", "a100-40gb")
    fleet = make_fleet(backend="sim", board="a100-40gb", model=model)
    variant = model.application.smallest.name
    whole, finest = (
        GpuConfiguration((InstanceKind("7g", variant),)),
        GpuConfiguration((InstanceKind("1g", variant),) * 7),
    )
    gpus = sum(NODES)
    if options.load == "capacity":
        rate_rps = 0.6 * capacity(fleet, whole, gpus)
    else:
        rate_rps = 0.9 * highest_rate(fleet, whole, gpus - 1, model.table.sla_p95_ms)
    with tempfile.TemporaryDirectory() as folder:
        settings = RollingSettings(
            folder=Path(folder), fleet=fleet, gpus=NODES, layouts=(whole, finest), rate_rps=rate_rps, seed=options.seed
        )
        rows = asyncio.run(rolling_change(settings))
    lost, late = 0, 0.0
    for row in rows:
        told = {"benchmark": "rolling_change", "load": options.load, "rate_rps": round(rate_rps, 2), **row}
        sys.stdout.write(json.dumps(told | {"load_average": os.getloadavg()[0]}) + "\n")
        lost += row["requests"]["lost"]
        late = max(late, row["late_pct"]) if row["way"] == "rolling" else late
    return 11 if lost else 10 if late > LATE_LIMIT_PCT else 0


if __name__ == "__main__":
    sys.exit(main())
