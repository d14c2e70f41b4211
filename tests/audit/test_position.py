from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featureloop.audit.material import Lab
from featureloop.audit.places import known_places
from featureloop.audit.placing import Placed, Said, assigned, kept_order
from featureloop.audit.position import PositionSettings, attack_position, restore
from tests.audit.scenes import SIZE, lab_of

QUICK = PositionSettings(steps=240, bags=30, victims=12, control=12)


def with_lit_places(lab: Lab) -> Lab:
    """The same frames under light that rises to the right in red, and downwards in green."""
    ramp = np.linspace(0, 160, SIZE)

    def lit(frame):
        pixels = (frame.pixels * 0.1).astype(np.float64)
        pixels[..., 0] += ramp
        pixels[..., 1] += ramp[:, None]
        return replace(frame, pixels=pixels.astype(np.uint8))

    sides = (replace(p, frames=tuple(lit(f) for f in p.frames)) for p in (lab.attacker, lab.victims))
    return Lab(lab.package, *sides, seed=1)


def test_places_that_show_in_the_values_are_found(tmp_path):
    found = attack_position(with_lit_places(lab_of(tmp_path)), QUICK)
    ratio = found.headline["position.exact_ratio"]
    assert ratio.low > 4
    assert found.controls
    values = {(m.figure, m.by): m.value for m in found.measures if m.arm == "release"}
    assert values["bits per row", "perceptron and jigsaw"] > 2
    assert values["R2 of the place", "perceptron"] > 0.7
    assert values["displacement in cells", "perceptron and jigsaw"] < 1.5
    assert found.curve[-1].value == values["exact ratio", "perceptron alone"] > 4
    assert [p.images for p in found.curve] == sorted(p.images for p in found.curve)
    assert len(found.curve) == 3


def test_the_restorer_gives_every_row_a_cell_of_its_own_whatever_their_order(tmp_path):
    lab = with_lit_places(lab_of(tmp_path))
    restorer = restore(lab, QUICK)
    values = lab.theirs[0].values
    cells, turned = restorer.place(values), restorer.place(values[::-1].copy())
    assert sorted(cells) == list(range(16))
    assert (cells == turned[::-1]).mean() > 0.8


def test_of_a_pooled_form_there_is_nothing_to_place(tmp_path):
    lab = lab_of(tmp_path, task="classification")
    found = attack_position(lab, QUICK)
    assert found.headline["position.exact_ratio"].value == 1.0
    assert found.controls
    assert any("nothing" in m.by for m in found.measures)
    assert restore(lab, QUICK).place(lab.theirs[0].values).tolist() == [0]


def test_rows_are_found_in_their_map_and_equal_ones_have_no_place_of_their_own(tmp_path):
    lab = lab_of(tmp_path)
    (ordered,) = lab.ordered(lab.victims.frames[:1])
    placed = known_places(lab.theirs[0].values, [ordered], lab.package.manifest.released)
    step = 2 / 7
    assert np.abs(ordered[placed.cells] - placed.values).max() <= step / 2 + 1e-5
    assert sorted(placed.cells) == list(range(16))
    doubled = ordered.copy()
    doubled[3] = doubled[7]
    bag = known_places(doubled[::-1].copy(), [doubled], replace_levels(lab, 256))
    assert (~bag.alone).sum() == 0 or set(bag.cells[~bag.alone]) == {3, 7}


def replace_levels(lab: Lab, levels: int):
    form = lab.package.manifest.released
    return replace(form, levels=(levels,) * form.channels)


def test_noisy_rows_are_found_by_the_nearest(tmp_path):
    lab = lab_of(tmp_path)
    (ordered,) = lab.ordered(lab.victims.frames[:1])
    order = np.random.default_rng(0).permutation(16)
    noisy = ordered[order] + np.random.default_rng(1).normal(0, 0.02, ordered.shape).astype(np.float32)
    placed = known_places(noisy, [ordered], replace_levels(lab, 256))
    assert (placed.cells == order).mean() > 0.9


def test_neighbours_decide_what_rows_alone_leave_open():
    grid, n = 3, 9
    cells = np.full((n, n), -2.2, np.float32)
    cells[0, 0] = 0  # Only the first row's place is known.
    right, below = np.full((n, n), -6.0, np.float32), np.full((n, n), -6.0, np.float32)
    for c in range(n):
        if c % grid < grid - 1:
            right[c, c + 1] = 0
        if c < n - grid:
            below[c, c + grid] = 0
    said = Said(cells, right, below)
    assert assigned(said, grid=grid, neighbours=1.0).tolist() == list(range(n))


def test_rows_of_several_frames_share_cells():
    cells = np.log(np.eye(4, dtype=np.float32).repeat(2, axis=0) + 1e-3)
    said = Said(cells, cells[:, :0], cells[:, :0])
    assert assigned(said, grid=2, neighbours=0.0, frames=2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("by", [1, 3])
def test_neighbours_are_rows_of_the_same_frame(by):

    order = np.random.default_rng(0).permutation(9)
    both = np.concatenate([order, order])
    frames = np.repeat([0, 1], 9)
    bag = Placed(np.zeros((18, 2), np.float32), both, frames, np.ones(18, bool))
    first, second = bag.neighbours(by, 3)
    assert len(first) == 12
    assert (both[second] - both[first] == by).all()
    assert (frames[first] == frames[second]).all()


def bags_in_windows(count: int, grid: int, side: int) -> list[Placed]:
    """Bags whose windows stand in a random order, each in order within."""
    cells = np.arange(grid * grid).reshape(grid // side, side, grid // side, side).swapaxes(1, 2).reshape(-1, side**2)
    out = []
    for i in range(count):
        at = cells[np.random.default_rng(i).permutation(len(cells))].ravel()
        values = np.zeros((len(at), 2), np.float32)
        out.append(Placed(values, at, np.zeros(len(at), np.intp), np.ones(len(at), bool)))
    return out


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_an_order_that_keeps_windows_is_learned_and_used(side):
    grid = 6
    bags = bags_in_windows(12, grid, side)
    order = kept_order(bags[:-1], grid=grid)
    assert len(order.offsets) == side**2
    assert len(order.starts) == (grid // side) ** 2
    # The first row of every window is known, of all others nothing.
    cells = np.zeros((36, 36), np.float32)
    first = np.arange(0, 36, side**2)
    cells[first, bags[-1].cells[first]] = 1
    said = Said(cells, cells[:, :0], cells[:, :0])
    assert (assigned(said, grid=grid, neighbours=0.0, order=order) == bags[-1].cells).all()
