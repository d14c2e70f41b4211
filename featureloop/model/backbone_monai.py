"""A backbone that is the first part of a MONAI Bundle's network.

Only networks of MONAI itself are made (never a name that a configuration
points at elsewhere), and weights are read as tensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
_PROBE = 256
_RESNET = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")


class Encoder(nn.Module):
    """The deepest feature map of a network that has an `encode` method (SegResNet)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, inputs, S, S) to the feature map."""
        found: Tensor = self.network.encode(image)[0]  # type: ignore[operator]  # a method of MONAI's networks
        return found


def bundle_backbone(path: Path) -> TorchBackbone:
    """The feature part of a bundle's network, kept as it is.

    Fits: two-dimensional networks with one or three input channels that have `features` (DenseNet, EfficientNet's
    relatives), `encode` (SegResNet), or residual layers up to a pooling (ResNet).

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
    if isinstance(getattr(network, "features", None), nn.Module):
        return nn.Sequential(network.features, nn.ReLU())  # type: ignore[arg-type]  # checked just above
    if callable(getattr(network, "encode", None)):
        return Encoder(network)
    layers = [
        getattr(network, name, None)
        for name in ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    ]
    if all(isinstance(layer, nn.Module) for layer in layers):
        return nn.Sequential(*(layer for layer in layers if layer is not None))
    raise PackageError(f"the features of {type(network).__name__} are not known; DenseNet, SegResNet and ResNet fit")
