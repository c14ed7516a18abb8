"""EfficientNet B0 to B7 classifying pictures, with our own preprocessing; workers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from transformers import EfficientNetConfig, EfficientNetForImageClassification, PreTrainedModel

from clover.serving.families.batches import infer_split
from clover.serving.families.devices import device
from clover.serving.families.pictures import (
    as_channels_first,
    best_labels,
    convert_options,
    decode_all,
    labels,
    of_batch,
    stretch,
)
from clover.serving.families.pretrained import network
from clover.serving.port import ServingError
from clover.serving.recipe import Recipe

# Mean and variance of ImageNet's channels. The published checkpoints are conversions of Keras weights, which divide by
# the standard deviation twice: by sqrt(variance) in the normalisation layer and by the same again after it.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.47853944, 0.4732864, 0.47434163)


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    pixels: int
    config: dict[str, Any] = {}
    # How the converted checkpoints were evaluated.
    resample: str = "nearest"


class Classifier:
    """A loaded variant: turns pictures into their five best labels."""

    def __init__(self, recipe: Recipe, model: PreTrainedModel, options: _Options) -> None:
        self._recipe = recipe
        self._model = model
        self._pixels = options.pixels
        self._resample = Image.Resampling[options.resample.upper()]
        self._labels = labels("imagenet")
        self._device = device()

    def prepare(self, content_type: str, payload: bytes) -> torch.Tensor:
        """Decode and scale (the host's part)."""
        images = [stretch(image, self._pixels, self._resample) for image in decode_all(content_type, payload)]
        return torch.from_numpy(np.stack([preprocessed(image) for image in images]))

    def infer(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return (pictures, 1000) probabilities (the instance's part)."""
        with torch.inference_mode():
            return self._model(pixel_values=pictures.to(self._device)).logits.float().softmax(dim=1).cpu()

    def infer_batch(self, prepared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Infer on the pictures of several requests at once."""
        return infer_split(self.infer, prepared)

    def render(self, probabilities: torch.Tensor) -> tuple[str, bytes]:
        """Return `label`, `probability` and `top5` of each picture."""
        return self._recipe.render(of_batch([best_labels(row, self._labels) for row in probabilities.numpy()]))

    def warm_up(self) -> None:
        """Classify grey once."""
        self.infer(torch.zeros(1, 3, self._pixels, self._pixels))


def preprocessed(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return (3, height, width) as the network wants it."""
    return as_channels_first(image, _MEAN, _STD) / np.asarray(_STD, dtype=np.float32)[:, None, None]


def load(recipe: Recipe) -> Classifier:
    """Load a variant; `ServingError` if its options are wrong or its weights missing, damaged or of another network."""
    try:
        options: _Options = convert_options(recipe.options, _Options, f"{recipe.application}/{recipe.variant}")
        # 1000 classes, as in ImageNet, is not the library's default.
        config = EfficientNetConfig(**{"num_labels": 1000, **options.config})
        model = network(recipe, EfficientNetForImageClassification, config)
        return Classifier(recipe, model, options)
    except (KeyError, ValueError) as exc:
        raise ServingError(f"{recipe.application}/{recipe.variant}: {exc}") from exc
