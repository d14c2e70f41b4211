"""A candidate that learns what contradicts the founding's frames goes no further than these bear."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.core.types import Float32, Task
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.learner.bags import Bags
from featureloop.learner.founding import found_package
from featureloop.learner.founding_records import FOUNDING_SITE, HELD_SITE
from featureloop.learner.gate import GateSettings
from featureloop.learner.interpolation import quality_of
from featureloop.learner.training import TrainSettings, train_recognizer
from featureloop.model.backbones import TorchBackbone
from featureloop.model.fit import FitSettings
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.codec import dequantize

TINY = FoundingSettings(
    size=64, channels=8, epochs=1, recognizer_epochs=2, augmentations=0, width=16, blocks=1, release="set"
)
FRAMES = {FOUNDING_SITE: 4, HELD_SITE: 8, "site-a": 12}


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package of masks, whose recognizer can be trained on."""
    work = tmp_path_factory.mktemp("harmless")
    write_phantom_folder(work / "images", HOSPITAL_A, seed=1, sequences=8, frames_each=2, size=(64, 64))
    folder = open_labelled(work / "images")
    torch.manual_seed(1)
    early = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
    backbone = TorchBackbone("small", 12, 16, early, nn.Sequential(nn.Conv2d(6, 12, 4, 4), nn.ReLU()))
    return found_package(folder, folder.items, work / "P0", settings=TINY, backbone=backbone).package


@pytest.fixture
def bags(founded: Package) -> Bags:
    """What the founding knows is as its package recognizes it; at the site the truth is the opposite."""
    rng, runtime, released = np.random.default_rng(1), Runtime(founded), founded.manifest.released
    sites = np.repeat(list(FRAMES), list(FRAMES.values()))
    symbols = [rng.integers(0, min(released.levels), (16, released.channels)).astype(np.uint8) for _ in sites]
    told = [runtime.recognize(dequantize(s, released)).targets() for s in symbols]
    results = [1 - rows if site == "site-a" else rows for rows, site in zip(told, sites.tolist(), strict=True)]
    groups = np.array([f"{i:02x}" for i in range(len(sites))])
    ones = np.ones(len(sites), np.float32)
    return Bags(symbols, results, sites, groups, ones.astype(bool), ones, sites == HELD_SITE, 0)


def test_it_goes_as_far_as_it_harms_none_of_the_founding_s_frames(founded: Package, bags: Bags) -> None:
    released = founded.manifest.released
    values: list[Float32] = [dequantize(s, released) for s in bags.symbols]

    def trained(margin: float, interpolation: float | None = None) -> tuple[nn.Module, float]:
        fit = FitSettings(epochs=20, batch=8, learning_rate=0.02, average=0.5)
        settings = TrainSettings(
            fit=fit, gate=GateSettings(margin=margin), founding_share=0.1, interpolation=interpolation
        )
        made, choice = train_recognizer(founded, bags, ~bags.held, settings=settings)
        return made, choice.share

    def held(made: nn.Module) -> float:
        at = np.flatnonzero(bags.held)
        told = [quality_of(made, values[i], bags.results[i], task=Task.SEGMENTATION) for i in at]
        return float(np.mean(told))

    free, most = trained(margin=1.0)
    least = held(trained(margin=0.0, interpolation=0.25)[0])
    assert most > 0.25
    assert held(free) < least
    margin = 1 - (held(free) + least) / 2
    made, share = trained(margin)
    assert 0.25 <= share < most
    assert 1 - held(made) <= margin
