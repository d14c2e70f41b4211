"""What stands around a position, in its vector: where it is put, and what it must not tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Task
from featureloop.images.phantom import phantom_frame
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.model.founding import train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.local_context import MASKS_WIDTH, LocalContext, LocalHead
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import Neck

TINY = FoundingSettings(
    size=64, epochs=1.0, recognizer_epochs=1.0, augmentations=1, width=16, blocks=1, batch=4, local_width=8
)


def test_neighbours_are_in_a_position_s_vector_and_the_map_s_border_is_not() -> None:
    torch.manual_seed(1)
    context = LocalContext(5, width=8).eval()
    alike = torch.full((1, 5, 6, 6), 0.3)
    with torch.no_grad():
        found = context(alike)
        other = alike.clone()
        other[0, :, 2, 3] += 1.0
        moved = (context(other) - found).abs().amax(1)[0]
    assert torch.allclose(found, found[:, :, :1, :1].expand_as(found), atol=1e-6)
    assert moved[2, 2] > 10 * moved[5, 0]  # The nearer a neighbour is, the more of it.


def test_taps_are_standardized_before_anything_is_made_of_them() -> None:
    maps = np.random.default_rng(1).normal([[[[3.0]], [[-1.0]]]], [[[[0.5]], [[7.0]]]], (6, 2, 4, 4)).astype(np.float32)
    context = LocalContext(2, width=8)
    context.standardize_by(np.array_split(maps, 3))
    seen = ((torch.from_numpy(maps) - context.mean) * context.scale).numpy()
    assert np.allclose(seen.mean((0, 2, 3)), 0, atol=1e-5)
    assert np.allclose(seen.std((0, 2, 3)), 1, atol=0.01)


def test_a_tap_that_is_dead_at_the_founding_stays_small_elsewhere() -> None:
    maps = np.random.default_rng(1).normal(0, 1, (4, 3, 4, 4)).astype(np.float32)
    maps[:, 1] = 0.0
    context = LocalContext(3, width=8)
    context.standardize_by([maps])
    assert context.scale.max() < 25 * context.scale.median()


def test_context_learns_under_a_linear_recognizer() -> None:
    torch.manual_seed(1)
    head = LocalHead(5, RecognizerSpec("set", 16, 1, 3, context=False), width=8).eval()
    joined = torch.randn(2, 5, 4, 4)
    rows = joined.flatten(2).transpose(1, 2)
    with torch.no_grad():
        expected = head.last(head.context(joined).permute(0, 2, 3, 1)).flatten(1, 2)
        assert torch.allclose(head(rows), expected, atol=1e-6)


def test_the_backbone_is_tuned_as_without_it() -> None:
    made = [
        train_networks(frames(), task=Task.SEGMENTATION, classes=1, settings=replace(TINY, local_width=width))
        for width in (0, 8)
    ]
    without, beside = (networks.backbone.late.state_dict() for networks in made)
    assert all(torch.equal(value, beside[name]) for name, value in without.items())
    assert any((m.mean != 0).any() for m in made[1].neck.modules() if isinstance(m, LocalContext))


@pytest.mark.parametrize(
    ("task", "release", "width"),
    [(Task.SEGMENTATION, "", MASKS_WIDTH), (Task.SEGMENTATION, "set", 0), (Task.DETECTION, "", 0)],
)
def test_masks_have_it_where_their_rows_leave_by_themselves(task: Task, release: str, width: int) -> None:
    settings = replace(TINY, local_width=None, release=release)
    networks = train_networks(frames(), task=task, classes=1, settings=settings)
    assert [m.lift.out_channels for m in networks.neck.modules() if isinstance(m, LocalContext)] == [width] * (
        width > 0
    )


def frames() -> list[Frame]:
    return [phantom_frame(HOSPITAL_A, seed=i, size=(64, 64)) for i in range(6)]


@pytest.mark.parametrize(
    ("task", "width", "adversary"),
    [(Task.SEGMENTATION, 8, 0.0), (Task.SEGMENTATION, 8, 0.5), (Task.DETECTION, 8, 0.0), (Task.SEGMENTATION, 0, 0.0)],
)
def test_it_stands_before_the_neck_where_it_is_asked_for(task: Task, width: int, adversary: float) -> None:
    settings = replace(TINY, local_width=width, adversary=adversary)
    networks = train_networks(frames()[:4], task=task, classes=1, settings=settings, held=frames()[4:])
    contexts = [m for m in networks.neck.modules() if isinstance(m, LocalContext)]
    (neck,) = (m for m in networks.neck.modules() if isinstance(m, Neck))
    assert len(contexts) == (width > 0)
    assert neck.transform.in_channels == (width or networks.backbone.channels)
    with torch.no_grad():
        taps = torch.zeros(1, networks.backbone.channels, 4, 4)
        assert networks.neck(taps).shape == (1, len(networks.levels), 4, 4)


@pytest.mark.parametrize(("task", "release"), [(Task.SEGMENTATION, "set"), (Task.CLASSIFICATION, "")])
def test_it_is_refused_where_the_recognizer_sees_the_whole_frame(task: Task, release: str) -> None:
    with pytest.raises(InputError, match="each row of a map by itself"):
        train_networks(frames(), task=task, classes=3, settings=replace(TINY, release=release))


def test_a_width_below_none_is_refused() -> None:
    with pytest.raises(InputError, match="from 0"):
        replace(TINY, local_width=-1)
