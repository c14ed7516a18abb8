"""Non-maximum suppression: of boxes that show the same thing, keep the best. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def suppressed(
    boxes: Floats, scores: Floats, classes: NDArray[np.integer[Any]], *, overlap: float, most: int
) -> NDArray[np.intp]:
    """Return the indices of the boxes to keep, best first.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        scores: (n,).
        classes: (n,); boxes of different classes never suppress each other.
        overlap: A box goes if its intersection over union with a better one of its class is above this, 0..1.
        most: Most boxes to keep.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        same = (classes[rest] == classes[best]) & (overlaps(boxes[best], boxes[rest]) > overlap)
        order = rest[~same]
    return np.array(kept, dtype=np.intp)


def overlaps(box: Floats, others: Floats) -> Floats:
    """Return the intersection over union of a box (4,) with others (n, 4); 0 where both are empty."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0.0, None).prod(axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - common
    return np.divide(common, union, out=np.zeros_like(common, dtype=np.float64), where=union > 0)
