"""A backbone that is the first part of a MONAI Bundle's network.

Only networks of MONAI itself are made (never a name that a configuration
points at elsewhere), and weights are read as tensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featureloop.core.errors import PackageError
from featureloop.model.backbones import TorchBackbone, module_backbone

NETWORKS = "monai.networks.nets."
CONFIGS = ("configs/inference.json", "configs/train.json", "configs/evaluate.json")
METADATA = "configs/metadata.json"
WEIGHTS = "models/model.pt"
FITTING = (
    "DenseNet, ResNet, SENet, EfficientNetBN, UNet, BasicUNet, DynUNet, FlexibleUNet, SegResNet, SegResNetDS, "
    "and what inherits of them"
)
_PROBE = 256
_IN_ORDER: Mapping[str, Sequence[str]] = {
    "DenseNet": ("features", "class_layers.relu"),
    "ResNet": ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "SENet": ("layer0", "layer1", "layer2", "layer3", "layer4"),
    "EfficientNetBN": (
        *("_conv_stem_padding", "_conv_stem", "_bn0", "_swish"),
        *("_blocks", "_conv_head_padding", "_conv_head", "_bn1", "_swish"),
    ),
    "BasicUNet": ("conv_0", "down_1", "down_2", "down_3", "down_4"),
    "DynUNet": ("input_block", "downsamples", "bottleneck"),
}
"""Parts that a network runs one after the other, up to its deepest map; `downsamples` is a list of such parts."""


class Deepest(nn.Module):
    """The deepest of the maps that an encoder gives as a list."""

    def __init__(self, encoder: nn.Module, *, method: str, at: int) -> None:
        super().__init__()
        self.encoder = encoder
        self._method, self._at = method, at

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, inputs, S, S) to the feature map."""
        found: Tensor = getattr(self.encoder, self._method)(image)[self._at]
        return found


class ZeroPadded(nn.Module):
    """ResNet's shortcut of type A: every so many pixels, and zeros for the channels that are missing.

    As MONAI's function of it, which takes the values out of the graph, so that it can't be exported.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        missing = self.channels - x.shape[1]
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, missing))


def bundle_backbone(path: Path) -> TorchBackbone:
    """The feature part of a bundle's network: kept as it is, or tuned as a whole where founding's profile is `full`.

    Fits: two-dimensional networks with one or three input channels of the classes in `FITTING`. Of one that
    classifies, it is all before the pooling; of one that segments, the encoder with its deepest layer.

    Raises
    ------
    PackageError
        The directory is no bundle, its network is none that fits, or its weights don't match.
    """
    definition, metadata = _definition(path), _json(path / METADATA)
    network = _network(definition)
    _load(network, path / WEIGHTS)
    features = _features(network.eval())
    try:
        image = metadata["network_data_format"]["inputs"]["image"]
        inputs, value_range = int(image["num_channels"]), [float(v) for v in image["value_range"]]
    except (KeyError, TypeError, ValueError) as error:
        raise PackageError(f"{METADATA} doesn't say what the network's input is ({error!r})") from error
    if value_range not in ([0.0, 1.0], [-1.0, 1.0]):
        raise PackageError(f"the network's input is in {value_range}; networks for [0, 1] or [-1, 1] fit")
    middle = 0.0 if value_range[0] == 0.0 else 0.5
    try:
        with torch.no_grad():
            shape = features(torch.zeros(1, inputs, _PROBE, _PROBE)).shape
    except (RuntimeError, ValueError, TypeError) as error:
        raise PackageError(f"the network takes no images of {_PROBE} x {_PROBE} pixels: {str(error)[:200]}") from error
    if len(shape) != 4 or shape[2] != shape[3] or _PROBE % shape[2]:
        raise PackageError(f"the network's features are {tuple(shape)}; a square grid (1, C, G, G) fits")
    return module_backbone(
        features,
        name=str(definition["_target_"]).removeprefix(NETWORKS).lower(),
        channels=int(shape[1]),
        stride=_PROBE // int(shape[2]),
        mean=(middle,) * inputs,
        std=(1.0 - middle,) * inputs,
        inputs=inputs,
    )


def _definition(path: Path) -> Mapping[str, Any]:
    for name in CONFIGS:
        if (path / name).is_file():
            definition = _json(path / name).get("network_def") or _json(path / name).get("network")
            if isinstance(definition, dict) and str(definition.get("_target_", "")):
                return definition
    raise PackageError(f"'{path}' is no MONAI Bundle with a network_def in {', '.join(CONFIGS)}")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PackageError(f"'{path}' can't be read: {error}") from error
    if not isinstance(found, dict):
        raise PackageError(f"'{path}' holds no object")
    return found


def _network(definition: Mapping[str, Any]) -> nn.Module:
    from monai.networks import nets

    target = str(definition["_target_"])
    name = target.removeprefix(NETWORKS)
    arguments = {k: v for k, v in definition.items() if not k.startswith("_")}
    if any(isinstance(v, str) and v[:1] in "$@%" for v in arguments.values()):
        raise PackageError("the bundle computes its network's arguments; write them out as numbers")
    made = getattr(nets, name, None) if "." not in name else None
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise PackageError(f"the bundle's network is '{target}'; only networks of {NETWORKS}* are made")
    if "pretrained" in signature(made).parameters:
        arguments["pretrained"] = False  # the weights are the bundle's; nothing is to be downloaded
    try:
        return made(**arguments)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise PackageError(f"{target} can't be made of {arguments}: {error}") from error


def _load(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise PackageError(f"the bundle has no weights: '{path}' is missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except Exception as error:  # torch raises errors of many kinds for a damaged file
        raise PackageError(f"'{path}' holds no weights of the bundle's network: {str(error)[:200]}") from error


def _features(network: nn.Module) -> nn.Module:
    """All of a network up to its deepest map.

    Raises
    ------
    PackageError
        It is none of `FITTING`.
    """
    found = _chosen(network)
    if not found:
        raise PackageError(f"the features of {type(network).__name__} are not known; known are {FITTING}")
    for part in network.modules():
        shortcut = getattr(part, "downsample", None)
        if isinstance(shortcut, partial):
            part.downsample = ZeroPadded(shortcut.keywords["planes"], shortcut.keywords["stride"])
    return nn.Sequential(*found)


def _chosen(network: nn.Module) -> Sequence[nn.Module]:
    """The parts that make the deepest map, one after the other; none where the network isn't known."""
    from monai.networks import nets

    if isinstance(network, nets.FlexibleUNet):
        return _chosen(network.encoder)
    if isinstance(network, nets.EfficientNetBNFeatures):
        return [Deepest(network, method="forward", at=-1)]
    if isinstance(network, nets.SegResNetDS):
        return [Deepest(network.encoder, method="forward", at=-1)]
    if isinstance(network, nets.SegResNet):
        return [Deepest(network, method="encode", at=0)]
    if isinstance(network, nets.UNet):
        return _down(network.model)
    left_out = "maxpool" if getattr(network, "no_max_pool", False) else None
    names = next((names for kind, names in _IN_ORDER.items() if isinstance(network, getattr(nets, kind))), ())
    return [part for name in names if name != left_out for part in _parts(network.get_submodule(name))]


def _parts(part: nn.Module) -> Sequence[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _down(model: nn.Module) -> list[nn.Module]:
    """The way down of a UNet: its levels are (down, skip over the next level, up), and the innermost is one part."""
    from monai.networks.layers import SkipConnection

    if isinstance(model, nn.Sequential) and len(model) == 3 and isinstance(model[1], SkipConnection):
        below = _down(model[1].submodule)
        return [model[0], *below] if below else []
    return [] if any(isinstance(part, SkipConnection) for part in model.modules()) else [model]
