"""Packages and MONAI Bundles: MONAI's own command verifies what goes in and out; its networks become backbones."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Frame, Task
from featureloop.images.labelled import open_labelled
from featureloop.images.source import open_source
from featureloop.learner.bundle import INSIDE, PackageNetwork, export_bundle, import_bundle
from featureloop.learner.founding import found_package
from featureloop.model.backbone_monai import bundle_backbone
from featureloop.model.backbones import TorchBackbone
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import file_digest, load_package
from featureloop.model.preprocess import probability_map, to_input
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors
from featureloop.testing import tiny_package

DENSENET = {
    "_target_": "monai.networks.nets.DenseNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2,
    "init_features": 8, "growth_rate": 4, "block_config": [1, 1, 1],
}  # fmt: skip
SEGRESNET = {
    "_target_": "monai.networks.nets.SegResNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 2,
    "init_filters": 8,
}  # fmt: skip
RESNET = {
    "_target_": "monai.networks.nets.ResNet", "spatial_dims": 2, "n_input_channels": 3, "num_classes": 2,
    "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 8, 16, 16], "conv1_t_stride": 2,
}  # fmt: skip


def write_bundle(
    path: Path, definition: dict[str, Any], *, value_range: tuple[int, int] = (0, 1), channels: int | None = None
) -> nn.Module:
    """A bundle as others write them: a configuration, metadata and weights."""
    from monai.networks import nets

    torch.manual_seed(0)
    arguments = {k: v for k, v in definition.items() if k != "_target_"}
    made = getattr(nets, definition["_target_"].split(".")[-1])
    offline = {"pretrained": False} if "pretrained" in signature(made).parameters else {}
    network: nn.Module = made(**arguments, **offline)
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    (path / "configs/inference.json").write_text(json.dumps({"network_def": definition}))
    image = {"num_channels": channels or arguments.get("in_channels", 3), "value_range": list(value_range)}
    (path / "configs/metadata.json").write_text(json.dumps({"network_data_format": {"inputs": {"image": image}}}))
    torch.save(network.state_dict(), path / "models/model.pt")
    return network.eval()


@pytest.mark.parametrize("task", list(Task))
def test_monai_verifies_an_exported_package(task: Task, tmp_path: Path) -> None:
    from monai.bundle import verify_net_in_out

    export_bundle(tiny_package(tmp_path / "package", task=str(task)), tmp_path / "bundle")
    configs = tmp_path / "bundle/configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(tmp_path / "bundle"),
    )
    metadata = json.loads((configs / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] += 1
    (configs / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="output channel number"):
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "inference.json"),
            device="cpu",
            bundle_root=str(tmp_path / "bundle"),
        )


def test_monais_command_verifies_an_exported_package(tmp_path: Path) -> None:
    """As a user types it."""
    export_bundle(tiny_package(tmp_path / "package"), tmp_path / "bundle")
    metadata = tmp_path / "bundle/configs/metadata.json"
    command = [
        sys.executable, "-m", "monai.bundle", "verify_net_in_out", "network_def", "--meta_file", str(metadata),
        "--config_file", str(tmp_path / "bundle/configs/inference.json"), "--bundle_root", str(tmp_path / "bundle"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verified with no error" in done.stdout + done.stderr


def test_the_bundles_network_recognizes_as_the_device_does(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package")
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    image = torch.from_numpy(to_input(pixels, package.manifest.preprocessing))
    runtime = Runtime(package)
    wanted = probability_map(runtime.recognize(runtime.extract(pixels)).probabilities, 4, height=16, width=16)
    found = PackageNetwork(str(package.path))(torch.cat([image, image]))
    assert found.shape == (2, 1, 16, 16)
    np.testing.assert_allclose(found[1, 0].numpy(), wanted, atol=1e-6)


def test_a_package_comes_out_of_its_bundle_as_it_went_in_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package")
    export_bundle(package, tmp_path / "bundle")
    assert import_bundle(tmp_path / "bundle", tmp_path / "again").digest == package.digest
    for out in ("again", "bundle"):
        with pytest.raises(InputError, match="exists already"):
            import_bundle(tmp_path / "bundle", tmp_path / out)
    with pytest.raises(InputError, match="exists already"):
        export_bundle(package, tmp_path / "bundle")
    damaged = tmp_path / "bundle" / INSIDE / "models/extractor.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert file_digest(damaged)
    with pytest.raises(PackageError):
        import_bundle(tmp_path / "bundle", tmp_path / "third")
    with pytest.raises(PackageError, match="--backbone"):
        import_bundle(tmp_path / "again", tmp_path / "third")


@pytest.mark.parametrize(
    ("definition", "stride"), [(DENSENET, 16), (SEGRESNET, 8), (RESNET, 32)], ids=["densenet", "segresnet", "resnet"]
)
def test_a_network_of_monai_becomes_a_backbone(definition: dict[str, Any], stride: int, tmp_path: Path) -> None:
    network = write_bundle(tmp_path / "bundle", definition)
    backbone = bundle_backbone(tmp_path / "bundle")
    assert backbone.stride == stride
    images = np.random.default_rng(2).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    found = backbone.open_early(64)(images)
    assert found.shape == (2, backbone.channels, 64 // stride, 64 // stride)
    if definition is DENSENET:
        gray = torch.from_numpy((images * 128 + 127) / 255).mean(1, keepdim=True)
        with torch.no_grad():
            wanted = torch.relu(network.features(gray)).numpy()  # type: ignore[operator]  # a part of DenseNet
        np.testing.assert_allclose(found, wanted, atol=1e-4)


PLANES = [4, 8, 8, 16]
GREY = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
NETWORKS: dict[str, tuple[dict[str, Any], str, int, int]] = {
    "DenseNet": ({**GREY, "init_features": 8, "growth_rate": 4, "block_config": [2, 2]}, "class_layers.relu", 16, 8),
    "ResNet": (
        {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": PLANES, "spatial_dims": 2, "n_input_channels": 1},
        "layer4", 16, 16,
    ),
    "ResNet without max-pool": (
        {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": PLANES, "spatial_dims": 2, "n_input_channels": 1,
         "no_max_pool": True},
        "layer4", 16, 8,
    ),
    "ResNet with shortcuts of type A": (
        {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": PLANES, "spatial_dims": 2, "n_input_channels": 1,
         "shortcut_type": "A"},
        "layer4", 16, 16,
    ),
    "SENet": (
        {"spatial_dims": 2, "in_channels": 1, "block": "se_resnet_bottleneck", "layers": [1, 1, 1, 1], "groups": 1,
         "reduction": 16, "inplanes": 8, "num_classes": 2, "downsample_kernel_size": 1, "input_3x3": False},
        "layer4", 2048, 32,
    ),
    "EfficientNetBN": (
        {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1, "num_classes": 2}, "_swish", 1280, 32
    ),
    "EfficientNetBNFeatures": (
        {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1, "num_classes": 2}, "_blocks.6", 320, 32
    ),
    "UNet": (
        {**GREY, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1},
        "model.1.submodule.1.submodule", 16, 4,
    ),
    "BasicUNet": ({**GREY, "features": [4, 4, 8, 8, 16, 4]}, "down_4", 16, 16),
    "DynUNet": (
        {**GREY, "kernel_size": [3, 3, 3, 3], "strides": [1, 2, 2, 2], "upsample_kernel_size": [2, 2, 2],
         "filters": PLANES},
        "bottleneck", 16, 8,
    ),
    "FlexibleUNet": ({**GREY, "backbone": "resnet18"}, "encoder.layer4", 512, 32),
    "SegResNet": ({**GREY, "init_filters": 8}, "down_layers.3", 64, 8),
    "SegResNetDS": ({**GREY, "init_filters": 8}, "encoder.layers.3.blocks", 64, 8),
}  # fmt: skip
"""By name: the arguments, the part whose output is the deepest map, its channels and its stride."""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bundles_features_are_the_deepest_map_of_its_network(name: str, tmp_path: Path) -> None:
    """Against what the whole network calculates at that place, at a size other than the one it was tried at."""
    arguments, deepest, channels, stride = NETWORKS[name]
    definition = {"_target_": f"monai.networks.nets.{name.split(maxsplit=1)[0]}", **arguments}
    network = write_bundle(tmp_path / "bundle", definition, channels=1)
    backbone = bundle_backbone(tmp_path / "bundle")
    assert (backbone.channels, backbone.stride) == (channels, stride)
    image, seen = torch.rand(2, 3, 64, 64), list[torch.Tensor]()
    network.get_submodule(deepest).register_forward_hook(lambda _module, _given, found: seen.append(found.clone()))
    with torch.no_grad():
        network(((image * 128 + 127) / 255).mean(1, keepdim=True))
        found = backbone.early(image)
    assert found.shape == (2, channels, 64 // stride, 64 // stride)
    torch.testing.assert_close(found, seen[-1], rtol=1e-4, atol=1e-5)
    assert found.std() > 0


def test_a_package_is_founded_on_a_bundle(tmp_path: Path) -> None:
    """Grey radiograph-like files, a network for grey images: from the bundle's directory to a recognition."""
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (70, 60)).astype(np.uint16)).save(path)
    network = write_bundle(tmp_path / "bundle", {"_target_": "UNet", **NETWORKS["UNet"][0]})
    backbone, folder = bundle_backbone(tmp_path / "bundle"), open_labelled(tmp_path / "images")
    tiny = FoundingSettings(
        size=64, channels=4, epochs=0.1, recognizer_epochs=0.1, augmentations=0, width=16, blocks=1, batch=4
    )
    made = found_package(folder, folder.items, tmp_path / "P", settings=tiny, backbone=backbone, replay_versions=0)
    assert made.skipped == ()
    package = load_package(tmp_path / "P")
    assert (package.manifest.features.backbone, package.manifest.features.stride) == ("unet", 4)
    (frame,) = (f for f in open_source(tmp_path / "images/a/0.png") if isinstance(f, Frame))
    runtime = Runtime(package)
    probabilities = runtime.recognize(release_vectors(runtime.extract(frame.pixels), package.manifest.released))
    assert probabilities.probabilities.sum() == pytest.approx(1.0, abs=1e-3)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in _network_of(backbone).items())


def _network_of(backbone: TorchBackbone) -> dict[str, torch.Tensor]:
    """The first convolution of a UNet's way down, by its name in the network: it is kept as it was."""
    state = backbone.early.state_dict()
    return {"model.0.conv.unit0.conv.weight": state["1.0.conv.unit0.conv.weight"]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"_target_": "os.system"}, "only networks of monai"),
        ({"_target_": "monai.networks.nets.densenet.os"}, "only networks of monai"),
        ({"_target_": "monai.networks.nets.Nothing"}, "only networks of monai"),
        ({"in_channels": "$1 + 0"}, "computes its network's arguments"),
        ({"growth_rate": -1}, "can't be made"),
        ({"out_channels": 3}, "holds no weights of the bundle's network"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", DENSENET)
    (tmp_path / "bundle/configs/inference.json").write_text(json.dumps({"network_def": DENSENET | change}))
    with pytest.raises(PackageError, match=match):
        bundle_backbone(tmp_path / "bundle")


def test_a_network_without_a_known_way_down_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    attention = {"_target_": "AttentionUnet", **GREY, "channels": [4, 8, 16], "strides": [2, 2]}
    write_bundle(tmp_path / "bundle", attention)
    with pytest.raises(PackageError, match="of AttentionUnet are not known; known are DenseNet, ResNet, SENet"):
        bundle_backbone(tmp_path / "bundle")


def test_a_bundle_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "range", DENSENET, value_range=(0, 255))
    with pytest.raises(PackageError, match=r"\[0, 1\] or \[-1, 1\] fit"):
        bundle_backbone(tmp_path / "range")
    for part, match in (
        ("models/model.pt", "no weights"),
        ("configs/metadata.json", "can't be read"),
        ("configs/inference.json", "no MONAI Bundle"),
    ):
        path = tmp_path / part.replace("/", "-")
        write_bundle(path, DENSENET)
        (path / part).unlink()
        with pytest.raises(PackageError, match=match):
            bundle_backbone(path)
