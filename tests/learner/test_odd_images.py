"""Images that no camera makes, in training: they are learned from, or left out with a reason, and the rest goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from featureloop.core.errors import PackageError
from featureloop.core.types import Skipped, Task
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import HOSPITAL_A, phantom_frame
from featureloop.learner.evaluation import evaluate
from featureloop.learner.founding import found_package
from featureloop.model.backbone_onnx import onnx_backbone
from featureloop.model.backbones import Backbone, module_backbone
from featureloop.model.export import export_onnx
from featureloop.model.founding import train_networks
from featureloop.model.founding_settings import FoundingSettings

SIZE = 64
TINY = FoundingSettings(
    size=SIZE, channels=4, epochs=0.1, recognizer_epochs=0.1, augmentations=1, width=16, blocks=1, batch=4
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def plain() -> Backbone:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 8, 4, 4), nn.ReLU()).eval()
    return module_backbone(network, name="plain", channels=8, stride=16)


def test_odd_images_and_a_class_of_one_are_learned_from_and_nan_is_left_out(tmp_path: Path) -> None:
    """A dot, one 20,000 pixels wide, one as high, black ones, a class with one image; a float TIFF that holds NaN."""
    images = {f"{'ab'[i % 2]}/{i}.png": noise(20, 30, i) for i in range(18)}
    images |= {"a/dot.png": noise(1, 1), "b/wide.png": noise(8, 20_000), "a/tall.png": noise(20_000, 2)}
    images |= {f"a/black-{i}.png": np.zeros((9, 9, 3), np.uint8) for i in range(2)} | {"c/only.png": noise(9, 9)}
    broken = np.zeros((8, 8), np.float32)
    broken[0, :3] = np.nan
    for name, pixels in (images | {"b/nan.tif": broken}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    folder = open_labelled(tmp_path)
    founded = found_package(folder, folder.items, tmp_path / "P", settings=TINY, backbone=plain(), replay_versions=0)
    assert founded.frames == len(images)
    assert founded.skipped == (Skipped("b/nan.tif", founded.skipped[0].reason),)
    assert "3 of 64 values are NaN" in founded.skipped[0].reason
    found = evaluate(founded.package, folder, folder.items)
    assert found.frames == len(images)
    assert founded.package.manifest.labels == ("a", "b", "c")


def test_frames_that_are_all_of_one_colour_make_a_package_that_runs() -> None:
    """Nothing varies, so the neck has no direction to choose; what comes out is finite all the same."""
    mask = np.zeros((40, 50), np.bool_)
    mask[5:20, 5:20] = True
    black = phantom_frame(HOSPITAL_A, seed=1, size=(40, 50))
    assert black.truth is not None
    truth = replace(black.truth, mask=mask)
    frames = [replace(black, pixels=np.zeros((40, 50, 3), np.uint8), truth=truth) for _ in range(8)]
    networks = train_networks(frames, task=Task.SEGMENTATION, classes=1, settings=TINY, backbone=plain())
    assert all(torch.isfinite(value).all() for value in networks.recognizer.state_dict().values())
    assert all(torch.isfinite(value).all() for value in networks.neck.state_dict().values())


class OneColourIsNan(nn.Module):
    """What a network without an epsilon does: it divides by the deviation of its input."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, 3, S / 16, S / 16)."""
        centred = image - image.mean((1, 2, 3), keepdim=True)
        return nn.functional.avg_pool2d(centred / (centred**2).mean((1, 2, 3), keepdim=True).sqrt(), 16)


class Logarithm(nn.Module):
    """Minus infinity where a frame is black."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, 3, S / 16, S / 16)."""
        return torch.log(nn.functional.avg_pool2d(image, 16))


@pytest.mark.parametrize("kind", ["module", "onnx"])
def test_a_backbone_that_gives_nan_is_named_with_the_frame(kind: str, tmp_path: Path) -> None:
    frame = phantom_frame(HOSPITAL_A, seed=1, size=(SIZE, SIZE))
    black = replace(frame, pixels=np.zeros_like(frame.pixels), name="black.png")
    if kind == "module":
        backbone: Backbone = module_backbone(OneColourIsNan(), name="no-epsilon", channels=3, stride=16)
        match = r"'no-epsilon' gives features of (black\.png|a grey frame) of which (\d+) of \2 are NaN"
    else:
        path = tmp_path / "logarithm.onnx"
        export_onnx(Logarithm(), torch.ones(1, 3, SIZE, SIZE), path, source="image", result="map", dynamic={})
        backbone = onnx_backbone(path, channels=3, stride=16)
        match = r"'logarithm' gives features of black\.png of which .* infinite or beyond 65504: leave such frames out"
    with pytest.raises(PackageError, match=match):
        train_networks([frame, black], task=Task.SEGMENTATION, classes=1, settings=TINY, backbone=backbone)
