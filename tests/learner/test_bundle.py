"""Packages and MONAI Bundles: MONAI's own command verifies what goes in and out; its networks become backbones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Task
from featureloop.learner.bundle import INSIDE, PackageNetwork, export_bundle, import_bundle
from featureloop.model.backbone_monai import bundle_backbone
from featureloop.model.package import file_digest
from featureloop.model.preprocess import probability_map, to_input
from featureloop.model.runtime import Runtime
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


def write_bundle(path: Path, definition: dict[str, Any], *, value_range: tuple[int, int] = (0, 1)) -> nn.Module:
    """A bundle as others write them: a configuration, metadata and weights."""
    from monai.networks import nets

    torch.manual_seed(0)
    arguments = {k: v for k, v in definition.items() if k != "_target_"}
    network: nn.Module = getattr(nets, definition["_target_"].split(".")[-1])(**arguments)
    (path / "configs").mkdir(parents=True)
    (path / "models").mkdir()
    (path / "configs/inference.json").write_text(json.dumps({"network_def": definition}))
    channels = arguments.get("in_channels", 3)
    image = {"num_channels": channels, "value_range": list(value_range)}
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
