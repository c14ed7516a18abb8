"""Run as a process: activations of the EfficientNet-Lite networks with published weights on a fixed input.

Prints one JSON object: variant -> {"sha256": of the 1000 float32 logits, "first": the first six of them}, and the
build and processor features that bit-exactness depends on.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import torch

from clover.catalog import load_recipes
from clover.serving.families.efficientnet_lite import SCALES, EfficientNetLite
from clover.serving.weights import read_weights


def processor() -> str:
    """Return family, model, stepping and cache of the processor, by which its kernels are chosen (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return "-".join(values.get(name, "?") for name in ("cpu family", "model", "stepping", "cache size"))


torch.set_num_threads(1)
capability = torch.backends.cpu.get_cpu_capability()
found: dict[str, object] = {"build": f"{torch.__version__} {capability} {processor()}"}
for variant, scale in SCALES.items():
    network = EfficientNetLite(scale)
    weights = io.BytesIO(read_weights(load_recipes("efficientnet_lite")[variant]))
    network.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    count = 3 * scale.pixels * scale.pixels
    # Integers only until the last step, so that the input is the same everywhere.
    pattern = (torch.arange(count, dtype=torch.int64) * 7919 % 256 - 127).to(torch.float32) / 128.0
    with torch.inference_mode():
        logits = network.eval()(pattern.reshape(1, 3, scale.pixels, scale.pixels))[0]
    found[variant] = {
        "sha256": hashlib.sha256(logits.numpy().tobytes()).hexdigest(),
        "first": [round(float(value), 5) for value in logits[:6]],
    }
print(json.dumps(found))
