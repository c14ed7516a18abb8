"""Any network that was exported to a TorchScript file, with declared pre- and post-processing; workers only.

Made for a user's own export of YOLOv5 or of a classifier: the file is loaded, the pictures are prepared as the
application file says, and what comes out is read as class scores or as boxes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clover.serving.boxes import suppressed
from clover.serving.families.devices import device
from clover.serving.families.pictures import (
    Fit,
    as_channels_first,
    best_labels,
    centre_square,
    convert_options,
    decode_all,
    labels,
    letterbox,
    of_batch,
    stretched,
)
from clover.serving.port import ServingError, first_line
from clover.serving.recipe import Recipe
from clover.serving.weights import read_checked, weight_file


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """What an application file may say in `[options]`.

    Attributes:
        pixels: Side of the square input.
        output: `classes`: (pictures, classes) logits. `boxes`: (pictures, candidates, 4 + [1 +] classes): centre x,
            centre y, width, height in pixels of the input, then objectness if there is one, then class scores 0..1.
        labels: `imagenet`, `coco`, or a file beside the application file with one name a line.
        fit: How a picture gets into the square: `letterbox`, `stretch` or `centre_crop`.
        mean, std: (value / 255 - mean) / std per channel.
        half: Compute in 16 bits on CUDA; on a processor always in 32.
        softmax: Whether class scores are logits that need it.
        objectness: Whether a candidate has one (YOLOv5 does, YOLOv8 does not).
        transposed: Whether the last two dimensions of boxes are exchanged (as YOLOv8 exports them).
        threshold: Least score of a box.
        overlap: Boxes of a class that overlap a better one by more (intersection over union) are dropped.
        most: Most boxes per picture.
    """

    pixels: int
    output: Literal["classes", "boxes"]
    labels: str
    fit: Literal["letterbox", "stretch", "centre_crop"] = "letterbox"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    half: bool = True
    softmax: bool = True
    objectness: bool = True
    transposed: bool = False
    threshold: float = 0.25
    overlap: float = 0.45
    most: int = 300


@dataclass(frozen=True, slots=True)
class Prepared:
    """(pictures, 3, pixels, pixels), how each was fitted in, and once computed the (pictures, ...) output."""

    pictures: torch.Tensor
    fits: list[Fit]


@dataclass(frozen=True, slots=True)
class Raw:
    """The network's output, one row per picture."""

    output: NDArray[np.float32]
    fits: list[Fit]


class ScriptedModel:
    """A loaded file."""

    def __init__(
        self, recipe: Recipe, module: torch.jit.ScriptModule, options: Options, names: tuple[str, ...]
    ) -> None:
        self._recipe = recipe
        self._module = module
        self._options = options
        self._names = names
        self._device = device()
        self._kind = torch.float16 if options.half and self._device.type == "cuda" else torch.float32

    def prepare(self, content_type: str, payload: bytes) -> Prepared:
        """Decode and scale (the host's part)."""
        fitted = [self._fitted(image) for image in decode_all(content_type, payload)]
        pictures = [as_channels_first(image, self._options.mean, self._options.std) for image, _ in fitted]
        return Prepared(torch.from_numpy(np.stack(pictures)), [fit for _, fit in fitted])

    def infer(self, prepared: Prepared) -> Raw:
        """Run the network (the instance's part)."""
        with torch.inference_mode():
            out: Any = self._module(prepared.pictures.to(self._device, self._kind))
        # Exports often return a tuple of which only the first is of use here.
        first = out[0] if isinstance(out, tuple | list) else out
        return Raw(first.float().cpu().numpy(), prepared.fits)

    def render(self, raw: Raw) -> tuple[str, bytes]:
        """Return the five best classes, or `detections` with label, score and box in the picture's pixels."""
        if self._options.output == "classes":
            return self._recipe.render(of_batch([best_labels(self._likely(row), self._names) for row in raw.output]))
        pictures = zip(raw.output, raw.fits, strict=True)
        return self._recipe.render(of_batch([{"detections": self._detections(*picture)} for picture in pictures]))

    def warm_up(self) -> None:
        """Run once on black, and make sure that what comes out is what was declared."""
        pixels = self._options.pixels
        raw = self.infer(Prepared(torch.zeros(1, 3, pixels, pixels), []))
        shape = raw.output.shape
        wanted = (
            len(self._names) if self._options.output == "classes" else 4 + self._options.objectness + len(self._names)
        )
        found = shape[1] if self._options.transposed and len(shape) == 3 else shape[-1]
        dimensions = 2 if self._options.output == "classes" else 3
        if len(shape) != dimensions or found != wanted:
            raise ServingError(
                f"{self._recipe.variant} returns {shape}, but {self._options.output} with {len(self._names)} labels "
                f"need {dimensions} dimensions and {wanted} values each"
            )

    def _fitted(self, image: Image.Image) -> tuple[Image.Image, Fit]:
        match self._options.fit:
            case "letterbox":
                return letterbox(image, self._options.pixels)
            case "stretch":
                return stretched(image, self._options.pixels)
            case "centre_crop":
                return centre_square(image, self._options.pixels), Fit(1.0, 1.0, 0.0, 0.0, image.width, image.height)

    def _likely(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._options.softmax:
            return row
        powers = np.exp(row - row.max())
        return powers / powers.sum()

    def _detections(self, candidates: NDArray[np.float32], fit: Fit) -> list[dict[str, Any]]:
        options = self._options
        rows = candidates.T if options.transposed else candidates
        first = 5 if options.objectness else 4
        scores = rows[:, first:] * rows[:, 4:5] if options.objectness else rows[:, first:]
        classes = scores.argmax(axis=1)
        best = scores[np.arange(len(rows)), classes]
        likely = best > options.threshold
        boxes, best, classes = _corners(rows[likely, :4]), best[likely], classes[likely]
        kept = suppressed(boxes, best, classes, overlap=options.overlap, most=options.most)
        placed = fit.back(boxes[kept])
        return [
            {
                "label": self._names[label],
                "score": round(float(score), 6),
                "box": [round(float(edge), 1) for edge in box],
            }
            for label, score, box in zip(classes[kept], best[kept], placed, strict=True)
        ]


def load(recipe: Recipe) -> ScriptedModel:
    """Load a file.

    Raises:
        ServingError: An option is wrong, the file is missing, altered or no TorchScript, or random weights were asked
            for: a file has its weights inside.
    """
    if recipe.is_random:
        raise ServingError(f"{recipe.variant} is a TorchScript file: there is no architecture to give random weights")
    try:
        options: Options = convert_options(recipe.options, Options, f"{recipe.application}/{recipe.variant}")
        if options.output == "boxes" and options.fit == "centre_crop":
            raise ServingError("fit = centre_crop cuts objects off: expected letterbox or stretch for boxes")
        names = _names(recipe, options.labels)
    except ValueError as exc:
        raise ServingError(str(exc)) from exc
    path = weight_file(recipe, default=f"{recipe.variant}.torchscript")
    if recipe.sha256:
        read_checked(path, recipe)
    return ScriptedModel(recipe, _loaded(path, half=options.half), options, names)


def _loaded(path: Path, *, half: bool) -> torch.jit.ScriptModule:
    where = device()
    try:
        with warnings.catch_warnings():
            # Later versions of torch call TorchScript old; files that exist must still run.
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location=where).eval()
    except (RuntimeError, ValueError) as exc:
        raise ServingError(f"{path.name} is not a TorchScript file that can be loaded: {first_line(exc)}") from exc
    return module.half() if half and where.type == "cuda" else module


def _names(recipe: Recipe, name: str) -> tuple[str, ...]:
    if name in {"imagenet", "coco"}:
        return labels(name)
    try:
        lines = (Path(recipe.folder) / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ServingError(
            f"labels = {name!r} of {recipe.application}: expected imagenet, coco or a file ({exc})"
        ) from exc
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    centre, size = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)
