"""What the families that look at pictures share: decoding, cutting, scaling. PIL and numpy only."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clover.serving.pictures_batch import BATCH, unpack
from clover.serving.port import InvalidInputError

_MAX_PIXELS: Final = 50_000_000
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_GREY: Final = (114, 114, 114)

Picture = NDArray[np.float32]


def decode_all(content_type: str, payload: bytes) -> list[Image.Image]:
    """Return the pictures of a request: one, or those of a batch (`clover.serving.pictures_batch`).

    Raises:
        InvalidInputError: It is no picture, too large, or a batch of nothing.
    """
    if content_type == BATCH:
        return [_decode(picture) for picture in unpack(payload)]
    if not content_type.startswith(("image/", "application/octet-stream")):
        raise InvalidInputError(f"a picture was expected, the content type is {content_type!r}")
    return [_decode(payload)]


def as_channels_first(image: Image.Image, mean: Any, std: Any) -> Picture:
    """Return (3, height, width) of (value / 255 - mean) / std per channel, as float32."""
    values = np.asarray(image, dtype=np.float32) / np.float32(255.0)
    scaled = (values - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def stretch(image: Image.Image, pixels: int, resample: Image.Resampling) -> Image.Image:
    """Scale to a square, whatever that does to the proportions."""
    return image.resize((pixels, pixels), resample)


def centre_square(image: Image.Image, pixels: int, *, margin: int = 32) -> Image.Image:
    """Cut the middle out, with a margin of so many pixels in the scaled picture, and scale it (bicubic)."""
    side = pixels / (pixels + margin) * min(image.width, image.height)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((pixels, pixels), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture was put into a square: x_square = x_picture x scale_x + left, likewise for y."""

    scale_x: float
    scale_y: float
    left: float
    top: float
    width: int
    height: int

    def back(self, boxes: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return boxes (n, 4) x0 y0 x1 y1 in pixels of the picture, cut at its borders."""
        offset = np.array([self.left, self.top, self.left, self.top])
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        limit = np.array([self.width, self.height, self.width, self.height])
        return np.clip((boxes - offset) / scale, 0.0, limit)


def letterbox(image: Image.Image, pixels: int) -> tuple[Image.Image, Fit]:
    """Scale into a square, proportions kept, grey at the sides (bilinear)."""
    scale = min(pixels / image.width, pixels / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (pixels - size[0]) // 2, (pixels - size[1]) // 2
    square = Image.new("RGB", (pixels, pixels), _GREY)
    square.paste(image.resize(size, Image.Resampling.BILINEAR), (left, top))
    return square, Fit(size[0] / image.width, size[1] / image.height, left, top, image.width, image.height)


def stretched(image: Image.Image, pixels: int) -> tuple[Image.Image, Fit]:
    """Scale to a square (bilinear) and say how."""
    fit = Fit(pixels / image.width, pixels / image.height, 0.0, 0.0, image.width, image.height)
    return stretch(image, pixels, Image.Resampling.BILINEAR), fit


def labels(name: str) -> tuple[str, ...]:
    """Read a list of class names that ships; lines that begin with # tell where they come from."""
    text = resources.files("clover").joinpath("data", f"{name}_labels.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def best_labels(probabilities: NDArray[Any], names: tuple[str, ...], count: int = 5) -> dict[str, Any]:
    """Return `label`, `probability` and `top5` of one picture's class probabilities."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    top = [{"label": names[index], "probability": round(float(probabilities[index]), 6)} for index in order]
    return {**top[0], "top5": top}


def of_batch(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a request: that of its one picture, or `results` in the order of the batch."""
    return results[0] if len(results) == 1 else {"results": results}


def convert_options(options: dict[str, Any], kind: type[Any], what: str) -> Any:
    """Return a family's options as a struct; `ValueError` names the field that is wrong."""
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as exc:
        raise ValueError(f"options of {what}: {exc}") from exc


def _decode(payload: bytes) -> Image.Image:
    """Return the picture upright and in RGB; `InvalidInputError` if it is none or too large."""
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
            _check_size(image)
            return ImageOps.exif_transpose(image).convert("RGB")
    except InvalidInputError:
        raise
    except Image.DecompressionBombError as exc:
        raise _too_large() from exc
    except MemoryError:
        raise
    except Exception as exc:
        # Pillow has no common error: damaged files raise OSError, SyntaxError, ValueError and others.
        raise InvalidInputError("the payload is not a readable PNG, JPEG, WebP, GIF or BMP picture") from exc


def _check_size(image: Image.Image) -> None:
    """Refuse, before anything is unpacked, a small file that would fill the memory."""
    if image.width * image.height > _MAX_PIXELS:
        raise _too_large()


def _too_large() -> InvalidInputError:
    return InvalidInputError(f"the picture has more than {_MAX_PIXELS // 10**6} million pixels")
