"""The device of a worker; imports torch: workers only."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """Return the CUDA device that this process sees (`clover.serving.device` has checked it), or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
