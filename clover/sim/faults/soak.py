"""Class A faults on real processes for minutes or hours: nobody may notice.

    python -m clover.sim.faults.soak --seconds 1800 --seed 1

A server with its append-only file, three nodes, two controllers, a carbon monitor and a generator at 70 % of what the
nodes can do; something breaks every 5 to 20 s, by a seeded schedule. In the end the history is judged; prints one JSON
line, and exits 10 if a promise was broken, 11 if a request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from clover.core.schedule import Mix
from clover.sim.faults.checker import Verdict, check
from clover.sim.faults.history import read_history
from clover.sim.faults.observer import Observer
from clover.sim.faults.rig import Rig, RigSettings
from clover.sim.faults.schedule import Saboteur

#: What requests ask for: some are of high priority, some take no answer of the least accurate variant.
MIX = Mix(high_share=0.1, min_accuracies=((85.0, 0.15),))
#: The last request may take until its deadline; a busy machine is given more.
_LAST_ANSWER_S, _QUIET_S = 120.0, 60.0


async def soak(settings: RigSettings, *, seconds: float, gap_s: tuple[float, float] = (5.0, 20.0)) -> Verdict:
    """Break a deployment for a while and judge what happened.

    Args:
        settings: The deployment; its folder holds the history and the logs afterwards.
        seconds: How long, from when it serves.
        gap_s: Shortest and longest time from one fault to the next.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    async with Rig(settings) as rig, asyncio.TaskGroup() as group:
        observer = Observer(rig)
        await rig.start(group)
        watching = group.create_task(observer.watch())
        await Saboteur(rig, seed=settings.seed, gap_s=gap_s).run(seconds)
        await rig.stop_load(limit_s=_LAST_ANSWER_S)
        watching.cancel()
        await observer.quiet(limit_s=_QUIET_S)
        rig.stop_keeping()
    return check(read_history(settings.folder))


def result_of(verdict: Verdict, settings: RigSettings, seconds: float) -> dict[str, Any]:
    """Return what is printed."""
    return {
        "schema": 1,
        "kept": verdict.kept,
        "seconds": seconds,
        "seed": settings.seed,
        "nodes": settings.nodes,
        "rate_rps": round(settings.rate_rps, 3),
        "load": settings.load,
        "scheme": settings.scheme,
        "counts": verdict.counts,
        "violations": [str(violation) for violation in verdict.violations[:100]],
    }


def main() -> None:
    """Run a soak as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule (default: %(default)s)")
    parser.add_argument("--gap", type=float, nargs=2, default=(5.0, 20.0), help="seconds from one fault to the next")
    parser.add_argument("--scheme", default="exact", help="of the controller (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep history and logs here (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clover-soak-"))
    settings = RigSettings(folder=folder, seed=options.seed, scheme=options.scheme, mix=MIX)
    sys.stderr.write(f"history and logs in {folder}\n")
    verdict = asyncio.run(soak(settings, seconds=options.seconds, gap_s=tuple(options.gap)))
    sys.stdout.write(orjson.dumps(result_of(verdict, settings, options.seconds)).decode() + "\n")
    sys.stderr.write(f"{verdict}\n")
    if not verdict.kept:
        sys.exit(11 if verdict.counts["lost"] else 10)


if __name__ == "__main__":
    main()
