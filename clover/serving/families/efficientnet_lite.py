"""EfficientNet-Lite 0/1/2 with published weights, classifying one picture; imports torch: workers only.

EfficientNet without what integer hardware dislikes: no squeeze-and-excitation, ReLU6 instead of swish, and a
stem and head that do not grow with the network. Names of the layers are those of the weight files.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clover.serving.families.batches import infer_split
from clover.serving.families.devices import device
from clover.serving.families.pictures import best_labels, centre_square, decode_all, labels, of_batch
from clover.serving.port import ServingError
from clover.serving.weights import read_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clover.serving.recipe import Recipe

_BN_EPS: Final = 1e-3
_BN_MOMENTUM: Final = 0.01
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
        recipe: Renders the result.
        pixels: Side of its input.
    """

    def __init__(self, network: EfficientNetLite, recipe: Recipe, pixels: int) -> None:
        self._network = network
        self._recipe = recipe
        self._pixels = pixels
        self._labels = labels("imagenet")
        self._device = device()

    def prepare(self, content_type: str, payload: bytes) -> Tensor:
        """Decode and scale the pictures (the host's part); `InvalidInputError` if they are none."""
        squares = [centre_square(image, self._pixels) for image in decode_all(content_type, payload)]
        scaled = (np.stack([np.asarray(square, dtype=np.float32) for square in squares]) - 127.0) / 128.0
        # Height, width, channels seen as channels first: exactly the memory layout that the network wants.
        return torch.from_numpy(scaled).permute(0, 3, 1, 2)

    def infer(self, pictures: Tensor) -> Tensor:
        """Return (pictures, 1000) probabilities (the instance's part)."""
        with torch.inference_mode():
            return self._network(pictures.to(self._device)).softmax(dim=1).cpu()

    def infer_batch(self, prepared: Sequence[Tensor]) -> list[Tensor]:
        """Infer on the pictures of several requests at once."""
        return infer_split(self.infer, prepared)

    def render(self, probabilities: Tensor) -> tuple[str, bytes]:
        """Return content type and JSON of the result: `label`, `probability` and `top5`."""
        return self._recipe.render(of_batch([best_labels(row, self._labels) for row in probabilities.numpy()]))

    def warm_up(self) -> None:
        """Run twice on grey, so that the first request finds memory allocated and kernels chosen."""
        for _ in range(2):
            self.infer(torch.zeros(1, 3, self._pixels, self._pixels).to(memory_format=torch.channels_last))


def load(recipe: Recipe) -> Classifier:
    """Load a variant (`lite0`, `lite1` or `lite2`), ready to infer on one thread.

    Raises:
        ServingError: No such variant, or its weights are missing, altered or of another network.
    """
    if recipe.variant not in SCALES:
        raise ServingError(
            f"{recipe.application} has no variant {recipe.variant!r}", hint=f"one of {', '.join(SCALES)}"
        )
    scale = SCALES[recipe.variant]
    network = _random(scale) if recipe.is_random else _published(recipe, scale)
    network.eval().requires_grad_(requires_grad=False)
    network.fold()
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return Classifier(network.to(device()), recipe, scale.pixels)


def _random(scale: Scale) -> EfficientNetLite:
    torch.manual_seed(0)
    return EfficientNetLite(scale)


def _published(recipe: Recipe, scale: Scale) -> EfficientNetLite:
    weights = read_weights(recipe)
    with torch.device("meta"):
        network = EfficientNetLite(scale)
    try:
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as exc:
        raise ServingError(f"the weights of {recipe.variant} do not fit the network: {exc}") from exc
    return network


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
