"""Burned-in text: what is drawn, and that the attack finds it where it is and not where it isn't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featureloop.audit.material import Lab, party, split_party
from featureloop.audit.overlays import CORNERS, changed_cells, number_box, write_lines, write_number
from featureloop.audit.text import PRESENCE, READ, TextSettings, attack_text
from featureloop.core.types import Frame, Task
from featureloop.testing import tiny_package

SIZE = 64


def smooth(count: int, *, groups: int, size: int = SIZE) -> list[Frame]:
    """Dark frames of two slow colours, on which bright text stands out."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size][..., None] / size
    out = []
    for i in range(count):
        a, b, c = rng.uniform(10, 60, (3, 3))
        out.append(Frame((a + b * x + c * y).clip(0, 255).astype(np.uint8), f"{i}.png", group=f"g{i % groups}"))
    return out


def test_lines_stand_in_their_corner() -> None:
    frame, size = Frame(np.zeros((320, 320, 3), np.uint8), "x.png"), 320
    seen = set()
    for i in range(24):
        written = write_lines(frame, np.random.default_rng(i))
        ys, xs = np.nonzero(written.frame.pixels.any(axis=2))
        place = f"{'bottom' if ys.mean() > size / 2 else 'top'} {'right' if xs.mean() > size / 2 else 'left'}"
        assert CORNERS[written.corner] == place
        assert min(ys.min(), size - 1 - ys.max()) >= 1, "no line is cut off"
        seen.add(written.corner)
    assert seen == {0, 1, 2, 3}


def test_the_number_stands_in_its_box_and_differs_by_its_digits() -> None:
    frame = Frame(np.zeros((320, 320, 3), np.uint8), "x.png")
    first, second = write_number(frame, [1, 2, 3, 4]).pixels, write_number(frame, [1, 2, 3, 5]).pixels
    height, width = number_box(320)
    assert first[:height, :width].any()
    assert not first[height:].any()
    assert not first[:, width:].any()
    assert (first != second).any()


def test_cells_with_text_are_those_that_changed() -> None:
    before = np.zeros((64, 64, 3), np.uint8)
    after = before.copy()
    after[17, 33] = 255
    assert np.flatnonzero(changed_cells(before, after, 4)).tolist() == [1 * 4 + 2]


@pytest.fixture(scope="module", params=[Task.SEGMENTATION, Task.CLASSIFICATION])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    package = tiny_package(tmp_path_factory.mktemp("text") / "p", task=request.param, size=SIZE)
    whole, _ = party(smooth(120, groups=24), size=SIZE)
    return Lab(package, *split_party(whole))


def test_text_is_found_where_it_shows_and_not_in_noise(lab: Lab) -> None:
    found = attack_text(lab, TextSettings(most=60, numbers=2))
    assert set(found.headline) == {"text.presence_auc", "text.character_ratio"}
    assert found.headline["text.presence_auc"].value > 0.8, "white on dark smooth frames changes what a patch is"
    blind = [m.value for m in found.measures if m.arm == "random" and m.figure == PRESENCE]
    assert 0.2 < float(np.mean(blind)) < 0.75
    control = max(m.value for m in found.measures if m.arm == "shallow" and m.figure == READ)
    assert control > 1.5
    assert all(m.chance == 1.0 for m in found.measures if m.figure == READ)
    assert [p.images for p in found.curve] == [15, 30, 60]
    assert found.curve[-1].value > 0.8


def test_the_same_seed_finds_the_same(lab: Lab) -> None:
    given = TextSettings(most=16, numbers=1)
    assert attack_text(lab, given).headline == attack_text(lab, given).headline


def test_without_text_on_one_side_nothing_is_claimed(tmp_path: Path, lab: Lab) -> None:
    found = attack_text(Lab(lab.package, lab.attacker, lab.victims.only(np.arange(1))), TextSettings(most=1))
    assert not found.controls
