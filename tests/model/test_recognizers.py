"""Recognizers: on a shuffled bag they are the same function, and learn the same, as on the map."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.errors import PackageError
from featureloop.core.types import Task
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.recognizers import (
    AttentionRecognizer,
    GlobalRecognizer,
    SetAttention,
    SetRecognizer,
    build_recognizer,
)


@dataclass(frozen=True)
class _Case:
    """A recognizer, a map's vectors (B, N, C), its targets (B, N, T), a shuffling of the N rows, and a task."""

    recognizer: SetRecognizer
    vectors: torch.Tensor
    targets: torch.Tensor
    order: torch.Tensor
    task: Task

    @property
    def tolerance(self) -> dict[str, float]:
        """What rounding may do: sums over the rows run in another order."""
        double = self.vectors.dtype == torch.float64
        return {"rtol": 1e-7, "atol": 1e-11} if double else {"rtol": 2e-3, "atol": 2e-5}


@st.composite
def cases(draw: st.DrawFn) -> _Case:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    dtype, task = (
        draw(st.sampled_from([torch.float32, torch.float64])),
        draw(st.sampled_from(["detection", "segmentation"])),
    )
    b, n, channels = (draw(st.integers(1, high)) for high in (3, 40, 9))
    outputs = draw(st.integers(1, 16)) + (4 if task == "detection" else 0)
    width, heads = draw(st.sampled_from([4, 8, 32])), draw(st.sampled_from([0, 2, 4]))
    recognizer = SetRecognizer(channels, width=width, blocks=draw(st.integers(0, 3)), outputs=outputs, heads=heads)
    vectors = torch.rand(b, n, channels, dtype=dtype) * 2 - 1
    targets = (torch.rand(b, n, outputs) < 0.3).to(dtype)
    if task == "detection":
        targets[..., -4:] = (255 * torch.rand(b, n, 4)).round() * targets[..., :-4].amax(-1, keepdim=True)
    return _Case(recognizer.to(dtype), vectors, targets, torch.randperm(n), Task(task))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_output_on_a_permuted_bag_is_the_permuted_output(case: _Case) -> None:
    on_map = case.recognizer(case.vectors)
    on_bag = case.recognizer(case.vectors[:, case.order])
    torch.testing.assert_close(on_bag, on_map[:, case.order], **case.tolerance)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_a_training_step_on_the_shuffled_bag_is_the_training_step_on_the_map(case: _Case) -> None:
    def gradients(vectors: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss = recognition_loss(case.recognizer(vectors), targets, task=case.task).mean()
        return torch.autograd.grad(loss, tuple(case.recognizer.parameters()))

    on_map = gradients(case.vectors, case.targets)
    on_bag = gradients(case.vectors[:, case.order], case.targets[:, case.order])
    assert any(g.abs().max() > 0 for g in on_map)
    for a, b in zip(on_map, on_bag, strict=True):
        torch.testing.assert_close(b, a, **case.tolerance)


def test_targets_that_do_not_move_with_their_vectors_teach_something_else() -> None:
    # The control of the test above: it would see a wrong pairing.
    torch.manual_seed(0)
    recognizer = SetRecognizer(4, width=8, blocks=1, outputs=2).double()
    vectors = torch.rand(1, 12, 4, dtype=torch.float64)
    targets = (torch.rand(1, 12, 2, dtype=torch.float64) < 0.5).double()

    def gradient(rows: torch.Tensor) -> torch.Tensor:
        loss = recognition_loss(recognizer(rows), targets, task=Task.SEGMENTATION).mean()
        return torch.autograd.grad(loss, recognizer.head.weight)[0]

    assert (gradient(vectors) - gradient(vectors.flip(1))).abs().max() > 1e-4


def test_a_position_hears_of_the_others_through_the_context() -> None:
    torch.manual_seed(0)
    recognizer = SetRecognizer(4, width=8, blocks=1, outputs=2)
    vectors = torch.rand(1, 6, 4)
    others = torch.cat([vectors[:, :1], torch.rand(1, 5, 4)], dim=1)
    assert (recognizer(vectors)[0, 0] - recognizer(others)[0, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_a_global_recognizer_maps_one_pooled_vector_to_the_classes(blocks: int) -> None:
    recognizer = GlobalRecognizer(12, width=8, blocks=blocks, outputs=3).eval()
    logits = recognizer(torch.rand(5, 1, 12))
    assert logits.shape == (5, 1, 3)
    torch.testing.assert_close(recognizer(torch.ones(1, 1, 12)), recognizer(torch.ones(2, 1, 12))[1:])


def test_a_global_recognizer_does_not_feel_the_scale_of_its_channels() -> None:
    """Standardized by their own frames, pooled vectors give the same logits in any units."""
    network = GlobalRecognizer(6, width=8, blocks=2, outputs=3).eval()
    vectors = torch.rand(50, 1, 6, generator=torch.Generator().manual_seed(1))
    units, origin = torch.logspace(-2, 2, 6), torch.linspace(-3, 3, 6)
    found = []
    for x in (vectors, vectors * units + origin):
        network.standardize_by(x)
        found.append(network(x))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
    network.standardize_by(torch.ones(4, 1, 6))
    assert torch.isfinite(network(vectors)).all(), "a constant channel divides by no zero"


def test_a_recognizer_is_built_from_its_spec() -> None:
    found = build_recognizer(RecognizerSpec("set", 16, 2, 5), channels=7)
    assert isinstance(found, SetRecognizer)
    assert found(torch.rand(2, 9, 7)).shape == (2, 9, 5)
    assert isinstance(build_recognizer(RecognizerSpec("global", 16, 2, 5), channels=7), GlobalRecognizer)


def test_an_unknown_form_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(PackageError, match=r"'grid' is unknown; known are set, attention, global"):
        build_recognizer(RecognizerSpec("grid", 16, 2, 5), channels=7)


@pytest.mark.parametrize(
    "spec", [RecognizerSpec("set", 16, 2, 5, heads=3), RecognizerSpec("global", 16, 2, 5, heads=2)]
)
def test_heads_that_do_not_suit_are_refused(spec: RecognizerSpec) -> None:
    with pytest.raises(PackageError, match="heads of attention don't suit"):
        build_recognizer(spec, channels=7)


def test_with_heads_a_row_sees_the_others() -> None:
    torch.manual_seed(1)
    attention = SetAttention(8, heads=2)
    x = torch.rand(1, 5, 8)
    other = x.clone()
    other[0, 3, 0] += 1.0
    assert (attention(x)[0, 0] - attention(other)[0, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("heads", [0, 1, 4])
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), blocks=st.integers(0, 2))
def test_attention_over_a_set_is_the_same_in_any_order_and_so_is_what_it_learns(
    dtype: torch.dtype, heads: int, seed: int, n: int, blocks: int
) -> None:
    """Also where the rows look at each other first."""
    torch.manual_seed(seed)
    recognizer = AttentionRecognizer(5, width=8, blocks=blocks, outputs=3, heads=heads).to(dtype).eval()
    vectors, targets = torch.rand(2, n, 5, dtype=dtype) * 2 - 1, torch.eye(3, dtype=dtype)[[0, 2]][:, None]
    shuffled = vectors[:, torch.randperm(n)]
    tolerance = {"rtol": 1e-7, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-5}
    assert recognizer(vectors).shape == (2, 1, 3)
    torch.testing.assert_close(recognizer(shuffled), recognizer(vectors), **tolerance)

    def gradients(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss = recognition_loss(recognizer(x), targets, task=Task.CLASSIFICATION).mean()
        return torch.autograd.grad(loss, tuple(recognizer.parameters()))

    for a, b in zip(gradients(vectors), gradients(shuffled), strict=True):
        torch.testing.assert_close(b, a, **tolerance)
