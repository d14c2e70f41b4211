"""What stands around a position, in its vector: where it is put, and what it must not tell."""

from dataclasses import replace

import pytest
import torch

from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.images.phantom import phantom_frame
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.model.founding import train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.local_context import LocalContext, LocalHead
from featureloop.model.manifest import RecognizerSpec

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


def test_a_backbone_is_tuned_under_a_linear_recognizer_of_the_context() -> None:
    torch.manual_seed(1)
    head = LocalHead(5, RecognizerSpec("set", 16, 1, 3, context=False), width=8).eval()
    joined = torch.randn(2, 5, 4, 4)
    rows = joined.flatten(2).transpose(1, 2)
    with torch.no_grad():
        expected = head.last(head.context(joined).permute(0, 2, 3, 1)).flatten(1, 2)
        assert torch.allclose(head(rows), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "there"),
    [({}, True), ({"local_width": 0}, False), ({"release": "set"}, False), ({"heads": 2}, False)],
)
def test_the_extractor_has_it_where_the_recognizer_sees_each_row_by_itself(
    changed: dict[str, object], *, there: bool
) -> None:
    frames = [phantom_frame(HOSPITAL_A, seed=i, size=(64, 64)) for i in range(6)]
    settings = replace(TINY, **changed)  # type: ignore[arg-type]  # settings by name
    networks = train_networks(frames[:4], task=Task.SEGMENTATION, classes=1, settings=settings, held=frames[4:])
    assert any(isinstance(m, LocalContext) for m in networks.backbone.late.modules()) is there
    assert networks.neck.transform.in_channels == (8 if there else networks.backbone.channels)


def test_a_width_below_none_is_refused() -> None:
    with pytest.raises(InputError, match="from 0"):
        replace(TINY, local_width=-1)
