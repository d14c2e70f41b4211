"""Founding's recognizer learns from what leaves, of boxes also from what a device has."""

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer, interpolate
from featureloop.model.forms import parse_form
from featureloop.model.founding_fit import LAST_RATE, LAST_STEPS, WAY, Rounding, fit_founding, rounding_of
from featureloop.model.lesson import Surroundings
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import ReleasedForm
from featureloop.model.tasks.detection import DISTANCES
from featureloop.sharing import codec

ROUNDING = Rounding(-np.ones(1, np.float32), np.ones(1, np.float32), np.full(1, 3, np.float32))
"""To -1, 0 and 1."""
ROWS = {Task.DETECTION: [1, *[128] * DISTANCES], Task.SEGMENTATION: [1]}
"""Targets of a lesion's rows."""
SETTINGS = FitSettings(epochs=40.0, learning_rate=0.3, average=0.9)


def bags(seed: int = 1, *, count: int = 80, task: Task = Task.DETECTION) -> BagSet:
    """Rows of one value, lesion above 0.2: of what is rounded to 0, three of ten are."""
    values = np.random.default_rng(seed).uniform(-1, 1, (count, 16, 1)).astype(np.float32)
    one = np.ones(1, np.float32)
    targets = (values > 0.2) * np.array(ROWS[task], np.uint8)
    return BagSet(values, targets, np.full(count, 1 / count), np.ones(count, np.float32), one, 0 * one)


def line(task: Task = Task.DETECTION) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(1, len(ROWS[task]))


def loss(network: nn.Module, of: BagSet) -> float:
    batch = of.batch(np.arange(len(of)))
    with torch.no_grad():
        found = recognition_loss(network(torch.from_numpy(batch.x)), torch.from_numpy(batch.y), task=Task.DETECTION)
    return float(found.mean())


def test_it_serves_a_device_better_than_learning_from_what_leaves_and_a_gate_better_than_never_having_seen_it() -> None:
    both, unrounded, rounded = line(), line(), line()
    fit_founding(both, bags(), ROUNDING, task=Task.DETECTION, settings=SETTINGS)
    fit_recognizer(unrounded, bags(), task=Task.DETECTION, settings=SETTINGS)
    fit_recognizer(rounded, ROUNDING.over(bags()), task=Task.DETECTION, settings=SETTINGS)
    others = bags(seed=2)
    assert loss(both, others) < loss(rounded, others)
    assert loss(both, ROUNDING.over(others)) < loss(unrounded, ROUNDING.over(others))


@pytest.mark.parametrize("epochs", [1.0, 80.0])
def test_what_is_kept_is_a_part_of_the_way_of_no_more_steps_than_before_and_of_few(epochs: float) -> None:
    settings = FitSettings(epochs=epochs, learning_rate=0.3, average=0.9, name="line")
    taken: dict[str, int] = {}

    def progress(what: str, done: int, _total: int) -> None:
        taken[what.rsplit(",", 1)[0]] = done

    both, by_hand = line(), line()
    fit_founding(both, bags(), ROUNDING, task=Task.DETECTION, settings=settings, around=Surroundings(progress=progress))
    steps = settings.steps(80)
    assert taken == {"line": steps, "line on rounded values": min(steps, LAST_STEPS)}
    fit_recognizer(by_hand, bags(), task=Task.DETECTION, settings=settings)
    before = {k: v.clone() for k, v in by_hand.state_dict().items()}
    last = FitSettings(epochs=min(steps, LAST_STEPS) * 16 / 80, learning_rate=0.3 * LAST_RATE, average=0.9)
    fit_recognizer(by_hand, ROUNDING.over(bags()), task=Task.DETECTION, settings=last)
    for name, value in interpolate(before, by_hand.state_dict(), WAY).items():
        torch.testing.assert_close(both.state_dict()[name], value)
        assert not torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("task", "rounding"), [(Task.DETECTION, None), (Task.SEGMENTATION, None), (Task.SEGMENTATION, ROUNDING)]
)
def test_what_is_not_rounded_is_learned_from_as_it_is_and_masks_as_they_leave(
    task: Task, rounding: Rounding | None
) -> None:
    alone, founded, given = line(task), line(task), bags(task=task)
    fit_founding(founded, given, rounding, task=task, settings=SETTINGS)
    fit_recognizer(alone, given if rounding is None else rounding.over(given), task=task, settings=SETTINGS)
    for name, value in alone.state_dict().items():
        assert torch.equal(founded.state_dict()[name], value)


def test_it_rounds_as_what_leaves_is_rounded() -> None:
    form = ReleasedForm("set", 2, (-1.0, -0.5), (1.0, 2.0), (3, 9), ((1,) * 3, (1,) * 9))
    rng = np.random.default_rng(3)
    values = rng.uniform(form.low, form.high, (5, 7, 2)).astype(np.float32)
    targets, ones = np.zeros((5, 7, 1), np.uint8), np.ones(2, np.float32)
    some = BagSet(values, targets, np.full(5, 0.2), np.ones(5, np.float32), ones, 0 * ones)
    rounding = rounding_of(form.form, form.low, form.high, form.levels)
    assert rounding is not None
    found = rounding.over(some)
    assert np.array_equal(found.values, np.stack([codec.quantize(v, form) for v in values]))
    left = np.stack([codec.dequantize(codec.quantize(v, form), form) for v in values])
    np.testing.assert_allclose(found.batch(np.arange(5)).x, left, atol=1e-6)
    again = rounding.over(found)
    assert np.array_equal(again.values, found.values)


def test_what_is_no_number_is_not_rounded() -> None:
    broken = bags()
    broken.values[3, 2, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fit_founding(line(), broken, ROUNDING, task=Task.DETECTION, settings=SETTINGS)


@pytest.mark.parametrize(
    ("form", "levels"),
    [("pool", None), ("set noise=1.0,clip=1.0", None), ("set subset=2", [3, 9]), ("set quantize=4", [3, 4])],
)
def test_what_leaves_in_a_form_is_rounded_to_its_levels_unless_it_is_pooled_or_noisy(
    form: str, levels: list[int] | None
) -> None:
    found = rounding_of(parse_form(form), (-1.0, -1.0), (1.0, 1.0), (3, 9))
    assert (found and found.levels.tolist()) == levels
