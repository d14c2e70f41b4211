from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from featureloop.core.components import largest_part
from featureloop.core.types import Frame, Task, Truth
from featureloop.model.early_cache import fill_cache
from featureloop.model.field_of_view import blank_outside, field_of_view
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Preprocessing
from featureloop.model.preprocess import to_input
from featureloop.model.tuning import Squares

SIDE = 320


def disc(*, text: str = "", at: tuple[int, int] = (4, 4), size: int = SIDE) -> np.ndarray:
    """A textured disc on black, with writing in a corner."""
    y, x = np.mgrid[:size, :size]
    inside = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (0.46 * size) ** 2
    pixels = np.random.default_rng(0).integers(70, 220, (size, size, 3)).astype(np.uint8) * inside[..., None]
    drawn = Image.fromarray(pixels.astype(np.uint8))
    if text:
        ImageDraw.Draw(drawn).multiline_text(at, text, fill="white", font=ImageFont.load_default(size // 24))
    return np.array(drawn)


@pytest.mark.parametrize("size", [96, 160, 320, 777])
def test_the_disc_stays_and_the_border_is_outside(size):
    pixels = disc(size=size)
    inside = field_of_view(pixels)
    shown = pixels.max(axis=2) > 0
    assert inside[shown].mean() > 0.98
    assert inside[~shown].mean() < 0.12


@pytest.mark.parametrize("text", ["DOE, JANE", "DOE\n1961-02-03", "J. Doe 12"])
def test_writing_on_the_border_leaves_no_trace(text):
    preprocessing = Preprocessing(SIDE, blank_border=True)
    with_text, without = disc(text=text), disc()
    outside = ~field_of_view(without)
    assert (with_text != without)[outside].any()
    # What is written may reach into the disc: there it stays, and is the source's to remove.
    different = to_input(blank_outside(with_text), preprocessing) != to_input(without, preprocessing)
    assert not different[0, :, outside].any()
    assert (field_of_view(with_text) == field_of_view(without)).all()


def test_a_dark_hole_inside_stays():
    pixels = disc()
    pixels[120:200, 120:200] = 0
    assert field_of_view(pixels)[120:200, 120:200].all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((50, 60, 3), np.uint8),
        np.full((200, 300, 3), 255, np.uint8),
        np.full((1, 1, 3), 9, np.uint8),
        np.full((3, 400, 3), 90, np.uint8),
        np.pad(np.full((20, 20, 3), 200, np.uint8), ((0, 300), (0, 300), (0, 0))),
    ],
    ids=["black", "white", "one pixel", "a strip", "nearly all black"],
)
def test_where_no_border_is_found_the_frame_stays(pixels):
    assert field_of_view(pixels).shape == pixels.shape[:2]
    assert blank_outside(pixels) is pixels


@pytest.mark.parametrize("blank", [True, False])
def test_founding_learns_nothing_from_the_border(blank):
    settings = FoundingSettings(size=SIDE, blank_border=blank)
    given = settings.preprocessing
    frames = [Frame(disc(text=text), "x.png", truth=Truth(label=0)) for text in ("DOE\nJANE", "")]
    task = Task.CLASSIFICATION
    squares = Squares(frames, task=task, classes=2, settings=settings, stride=16).batch([0, 1]).x
    border = ~field_of_view(frames[1].pixels)
    assert (squares[0][:, border] == squares[1][:, border]).all() is np.bool_(blank)
    seen: list[np.ndarray] = []

    class Watched:
        name, stride = "watched", 16

        def open_early(self, _size):
            def run(x):
                seen.append(x)
                return x[:, :, ::16, ::16]

            return run

    fill_cache(frames, Watched(), task=task, classes=2, preprocessing=given, augmentations=0, seed=1)
    assert (seen[1][0] == squares[0]).all()
    assert (seen[2][0] == squares[1]).all()


def test_without_the_setting_nothing_is_blanked():
    pixels = disc(text="DOE")
    plain = Preprocessing(SIDE)
    assert (to_input(pixels, plain) == to_input(pixels.copy(), plain)).all()
    assert (to_input(pixels, plain) != to_input(disc(), plain)).any()


def test_the_largest_part_is_that_of_most_pixels():
    mask = np.zeros((20, 20), np.bool_)
    mask[1:4, 1:15] = True
    mask[3:10, 14:16] = True  # touches the first
    mask[12:18, 2:9] = True
    expected = mask.copy()
    expected[12:18] = False
    assert (largest_part(mask) == expected).all()
    assert not largest_part(np.zeros((4, 4), np.bool_)).any()
