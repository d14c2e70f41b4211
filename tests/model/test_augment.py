"""Augmentation: what it may change, and that the truth moves along."""

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Truth
from featureloop.images.phantom import phantom_frame
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.model.augment import AUGMENTATIONS, augment, augmentation_for

GREY = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 64, axis=1).repeat(3, axis=2)


def test_grey_frames_are_upright_and_coloured_ones_free_unless_somebody_says() -> None:
    grey, coloured = Frame(GREY, name="x"), phantom_frame(HOSPITAL_A, seed=1, size=(64, 64))
    assert augmentation_for([grey, grey]) == "upright"
    assert augmentation_for([grey, coloured]) == "free"
    assert augmentation_for([grey], "free") == "free"
    with pytest.raises(InputError, match="choose auto, free or upright"):
        augmentation_for([grey], "sideways")


def test_an_upright_frame_stays_upright_and_grey() -> None:
    """Bright below stays bright below."""
    for seed in range(20):
        found, _ = augment(GREY, Truth(), np.random.default_rng(seed), by="upright")
        assert (found[..., 0] == found[..., 1]).all()
        assert found[20:30, 20:44].mean() < found[34:44, 20:44].mean()


def test_a_free_frame_is_turned_any_way() -> None:
    turned = [augment(GREY, Truth(), np.random.default_rng(seed), by="free")[0] for seed in range(20)]
    assert any(x[20:30, 20:44].mean() > x[34:44, 20:44].mean() for x in turned)


@pytest.mark.parametrize("by", AUGMENTATIONS)
def test_the_mask_moves_with_the_pixels(by: str) -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:40, 24:44] = True
    pixels = np.where(mask[..., None], 250, 10).astype(np.uint8).repeat(3, axis=2)
    for seed in range(20):
        found, truth = augment(pixels, Truth(mask=mask), np.random.default_rng(seed), by=by)
        assert truth.mask is not None
        bright = found[..., 0].astype(int) > (int(found.min()) + int(found.max())) / 2
        overlap = 2 * (bright & truth.mask).sum() / (bright.sum() + truth.mask.sum())
        assert overlap > 0.9
