"""Founding training on a handful of generated frames: what comes out is whole and consistent."""

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Task, Truth
from featureloop.images.phantom import phantom_frame
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.model.founding import train_networks
from featureloop.model.founding_features import frame_shares
from featureloop.model.founding_settings import FoundingSettings

TINY = FoundingSettings(size=64, epochs=1.0, recognizer_epochs=1.0, augmentations=1, width=16, blocks=1, batch=4)


def frames(n: int = 8) -> list[Frame]:
    return [phantom_frame(HOSPITAL_A, seed=i, size=(64, 64)) for i in range(n)]


def test_segmentation_networks_fit_each_other_and_the_budget() -> None:
    seen: set[str] = set()
    networks = train_networks(
        frames(),
        task=Task.SEGMENTATION,
        classes=1,
        settings=TINY,
        progress=lambda what, *_: seen.add(what.split(",")[0]),
    )
    assert networks.features.grid == 4
    assert networks.features.channels == len(networks.levels)
    assert 0 < networks.bits_per_vector <= TINY.bits_per_vector
    assert {"early features", "fine-tuning", "taps", "features", "training"} <= seen


def test_the_same_seed_gives_the_same_networks() -> None:
    first, second = (train_networks(frames(4), task=Task.CLASSIFICATION, classes=3, settings=TINY) for _ in range(2))
    for name, value in first.recognizer.state_dict().items():
        np.testing.assert_allclose(value.numpy(), second.recognizer.state_dict()[name].numpy(), rtol=1e-4, atol=1e-5)


def test_a_frame_without_its_label_is_named() -> None:
    unlabelled = [Frame(f.pixels, name="case7.png", truth=Truth()) for f in frames(1)]
    with pytest.raises(InputError, match=r"case7\.png"):
        train_networks(unlabelled, task=Task.SEGMENTATION, classes=1, settings=TINY)


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_size_that_the_grid_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=str(size)):
        FoundingSettings(size=size)


def test_rare_classes_are_drawn_more_often_and_other_tasks_frames_alike() -> None:
    targets = np.eye(2, dtype=np.uint8)[[0] * 9 + [1]][:, None]
    shares = frame_shares(targets, task=Task.CLASSIFICATION)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[9] / shares[0] == pytest.approx(3.0)
    assert (frame_shares(targets, task=Task.SEGMENTATION) == 0.1).all()


def test_few_frames_are_passed_over_more_often_unless_the_passes_are_given() -> None:
    assert FoundingSettings().tuning_steps(40) == 600
    assert FoundingSettings().tuning_steps(8000) == 6000
    assert FoundingSettings(epochs=2.0).tuning_steps(40) == 5
    assert FoundingSettings().recognizer_steps(8000) == 8000
