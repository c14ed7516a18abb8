"""RT-DETR finding the objects of the COCO classes in pictures; workers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

from clover.serving.families.devices import device
from clover.serving.families.pictures import (
    Fit,
    as_channels_first,
    convert_options,
    decode_all,
    labels,
    of_batch,
    stretched,
)
from clover.serving.families.pretrained import network
from clover.serving.port import ServingError
from clover.serving.recipe import Recipe

_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    pixels: int
    threshold: float = 0.5
    config: dict[str, Any] = {}
    backbone: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Prepared:
    """(pictures, 3, pixels, pixels) in 0..1 and how each was fitted in."""

    pictures: torch.Tensor
    fits: list[Fit]


@dataclass(frozen=True, slots=True)
class Found:
    """Per picture: probabilities (queries, classes) and boxes (queries, 4) as centre, width, height in 0..1."""

    probabilities: NDArray[np.float32]
    boxes: NDArray[np.float32]
    fits: list[Fit]


class Detector:
    """A loaded variant: turns pictures into boxes with label and score. It needs no non-maximum suppression."""

    def __init__(self, recipe: Recipe, model: PreTrainedModel, options: _Options) -> None:
        self._recipe = recipe
        self._model = model
        self._options = options
        self._labels = labels("coco")
        self._device = device()

    def prepare(self, content_type: str, payload: bytes) -> Prepared:
        """Decode and scale (the host's part)."""
        fitted = [stretched(image, self._options.pixels) for image in decode_all(content_type, payload)]
        pictures = np.stack([as_channels_first(image, _BLACK, _WHITE) for image, _ in fitted])
        return Prepared(torch.from_numpy(pictures), [fit for _, fit in fitted])

    def infer(self, prepared: Prepared) -> Found:
        """Score all queries (the instance's part)."""
        with torch.inference_mode():
            out = self._model(pixel_values=prepared.pictures.to(self._device))
        probabilities, boxes = out.logits.float().sigmoid(), out.pred_boxes.float()
        return Found(probabilities.cpu().numpy(), boxes.cpu().numpy(), prepared.fits)

    def infer_batch(self, prepared: Sequence[Prepared]) -> list[Found]:
        """Score the pictures of several requests at once."""
        pictures = torch.cat([one.pictures for one in prepared])
        found = self.infer(Prepared(pictures, []))
        edges = list(accumulate((len(one.fits) for one in prepared), initial=0))
        return [
            Found(found.probabilities[begin:end], found.boxes[begin:end], one.fits)
            for one, (begin, end) in zip(prepared, pairwise(edges), strict=True)
        ]

    def render(self, found: Found) -> tuple[str, bytes]:
        """Return `detections` of each picture, best first: label, score, box as x0 y0 x1 y1 in its pixels."""
        pictures = zip(found.probabilities, found.boxes, found.fits, strict=True)
        return self._recipe.render(of_batch([{"detections": self._detections(*picture)} for picture in pictures]))

    def warm_up(self) -> None:
        """Look at black once."""
        pixels = self._options.pixels
        self.infer(Prepared(torch.zeros(1, 3, pixels, pixels), []))

    def _detections(
        self, probabilities: NDArray[np.float32], boxes: NDArray[np.float32], fit: Fit
    ) -> list[dict[str, Any]]:
        """Take the best pairs of query and class, as many as there are queries, above the threshold."""
        flat = probabilities.reshape(-1)
        best = np.argsort(-flat, kind="stable")[: len(probabilities)]
        best = best[flat[best] > self._options.threshold]
        queries, classes = np.divmod(best, probabilities.shape[1])
        corners = fit.back(_corners(boxes[queries]) * self._options.pixels)
        return [
            {
                "label": self._labels[label],
                "score": round(float(flat[index]), 6),
                "box": [round(float(edge), 1) for edge in box],
            }
            for index, label, box in zip(best, classes, corners, strict=True)
        ]


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    centre, size = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def load(recipe: Recipe) -> Detector:
    """Load a variant; `ServingError` if its options are wrong or its weights missing, damaged or of another network."""
    try:
        options: _Options = convert_options(recipe.options, _Options, f"{recipe.application}/{recipe.variant}")
        backbone = RTDetrResNetConfig(**{"out_features": ["stage2", "stage3", "stage4"], **options.backbone})
        config = RTDetrConfig(**{"backbone_config": backbone, "num_labels": 80, **options.config})
        return Detector(recipe, network(recipe, RTDetrForObjectDetection, config), options)
    except ValueError as exc:
        raise ServingError(f"{recipe.application}/{recipe.variant}: {exc}") from exc
