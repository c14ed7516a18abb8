"""What a batch across requests would gain on a CPU slice: one forward pass on N pictures against N passes on one.

    python benchmarks/batching.py

Real worker processes of `efficientnet_lite` on a whole emulated GPU; the two ways alternate. Prints one JSON line:
`ratios` (milliseconds per picture in a batch / one at a time; below 1 a batch gains), which is what may be compared
between machines, and the medians. A batch also makes its first picture wait for the last: `delay_ratios` is the
answer's time in a batch over that of a picture alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from dataclasses import dataclass

from clover.catalog import load_recipes
from clover.serving.pictures_batch import BATCH, pack
from clover.serving.port import InstanceSpec
from clover.serving.process import ProcessServicer
from clover.serving.samples import load_input

APPLICATION = "efficientnet_lite"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a worker."""

    content_type: str
    payload: bytes
    id: str = "benchmark"


async def measure(variant: str, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return milliseconds of one picture, and of a batch of `size`, in each of `rounds`."""
    servicer = ProcessServicer(recipes=load_recipes(APPLICATION))
    spec = InstanceSpec(
        application=APPLICATION,
        variant=variant,
        profile="7g",
        compute_slices=7,
        total_slices=7,
        device="",
        name=f"batching/{variant}",
    )
    content_type, picture = load_input("chelsea")
    one, many = Ask(content_type, picture), Ask(BATCH, pack([picture] * size))
    try:
        worker = await servicer.start(spec)
        alone: list[float] = []
        batched: list[float] = []
        for number in range(rounds + 1):
            figures = [(await worker.serve(one)).instance_ms for _ in range(size)]
            figures_many = (await worker.serve(many)).instance_ms
            if number:
                alone.append(statistics.median(figures))
                batched.append(figures_many)
        return alone, batched
    finally:
        await servicer.close()


def main() -> None:
    """Print the figures of all variants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    ratios: dict[str, float] = {}
    delays: dict[str, float] = {}
    medians: dict[str, dict[str, float]] = {}
    for variant in load_recipes(APPLICATION):
        alone, batched = asyncio.run(measure(variant, options.size, options.rounds))
        delays[variant] = statistics.median(b / a for a, b in zip(alone, batched, strict=True))
        ratios[variant] = delays[variant] / options.size
        medians[variant] = {"one_ms": statistics.median(alone), "batch_ms": statistics.median(batched)}
    print(json.dumps({"size": options.size, "ratios": ratios, "delay_ratios": delays, "medians": medians}))


if __name__ == "__main__":
    main()
