"""The training loop: what it keeps, when it stops, and that nothing is lost when it is killed."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featureloop.core.errors import InputError, StorageError
from featureloop.model.checkpoint import Checkpoint
from featureloop.model.compute import Compute, compute_on
from featureloop.model.lesson import Batch, Draw, Lesson, Pace, Surroundings
from featureloop.model.loop import cosine, train

PACE = Pace(steps=40, average=0.9, seed=1)


class Killed(BaseException):
    """Stands for SIGKILL."""


def line(seed: int = 1, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def batch_of(step: int, size: int = 8) -> Batch:
    x = np.random.default_rng((5, step)).normal(size=(size, 1, 3)).astype(np.float32)
    return Batch(x, x.sum(2, keepdims=True), np.ones(size, np.float32))


def lesson(network: nn.Module, **changes: object) -> Lesson:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return (network(x) - y).square().mean((1, 2))

    given = {"batch": batch_of, "loss": loss, "held": [batch_of(10_000), batch_of(10_001)], **changes}
    return Lesson("fine-tuning", network, [(network, 0.05)], **given)  # type: ignore[arg-type]  # given by name


def error(network: nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return float((network(torch.from_numpy(batch.x)) - torch.from_numpy(batch.y)).square().mean())


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_it_learns_and_its_curves_are_logged() -> None:
    network, curves = line(), list[tuple[str, float, int]]()
    before = error(network, batch_of(1))
    around = Surroundings(log=lambda name, value, step: curves.append((name, value, step)))
    assert train(lesson(network), pace=PACE, around=around) == PACE.steps
    assert error(network, batch_of(1)) < before / 4
    held = [value for name, value, _ in curves if name == "fine-tuning/held loss"]
    assert len(held) == 20
    assert held[-1] < held[0]
    assert len([1 for name, *_ in curves if name == "fine-tuning/loss"]) == PACE.steps


@pytest.mark.parametrize("killed_at", [3, 20, 39])
def test_a_killed_training_goes_on_as_if_it_had_not_been(killed_at: int, tmp_path: Path) -> None:
    """Dropout included: a step's random choices follow from its number."""
    undisturbed = line(dropout=0.3)
    train(lesson(undisturbed), pace=PACE)

    def dies(step: int) -> Batch:
        if step == killed_at:
            raise Killed
        return batch_of(step)

    around = Surroundings(keeper=Checkpoint(tmp_path / "c", "this", every_s=0.0))
    with pytest.raises(Killed):
        train(lesson(line(dropout=0.3), batch=dies), pace=PACE, around=around)
    steps: list[int] = []

    def counted(step: int) -> Batch:
        steps.append(step)
        return batch_of(step)

    again = line(seed=2, dropout=0.3)
    train(
        lesson(again, batch=counted),
        pace=PACE,
        around=Surroundings(keeper=Checkpoint(tmp_path / "c", "this", every_s=0.0)),
    )
    assert same(undisturbed, again)
    assert steps[0] == killed_at // 2 * 2, "what was looked at is not repeated"


def test_a_lesson_that_goes_on_is_saved_now_and_then_and_its_end_always(tmp_path: Path) -> None:
    place, kept = tmp_path / "c" / "fine-tuning.safetensors", Checkpoint(tmp_path / "c", "this", every_s=1000.0)

    def watched(step: int) -> Batch:
        assert not place.exists(), step
        return batch_of(step)

    train(lesson(line(), batch=watched), pace=PACE, around=Surroundings(keeper=kept))
    assert place.exists()


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    around = Surroundings(keeper=Checkpoint(tmp_path / "c", "this", every_s=0.0))
    first, second = line(), line(seed=2)
    train(lesson(first), pace=PACE, around=around)

    def never(_step: int) -> Batch:
        raise AssertionError

    train(lesson(second, batch=never), pace=PACE, around=around)
    assert same(first, second)


def test_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", "this")
    with pytest.raises(InputError, match="another training"):
        Checkpoint(tmp_path / "c", "that")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "c", "this")
    (tmp_path / "c" / "fine-tuning.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(StorageError, match="damaged"):
        train(lesson(line()), pace=PACE, around=Surroundings(keeper=kept))


def test_it_stops_when_what_is_held_gets_clearly_worse_and_keeps_the_best() -> None:
    """The steps' truth is the opposite of the held frames', from a quarter of the training on."""

    def turns(step: int) -> Batch:
        b = batch_of(step, 64)
        return b if step < 100 else Batch(b.x, -b.y, b.weights)

    network, held = line(), [batch_of(10_000 + i, 64) for i in range(4)]
    steps = train(lesson(network, batch=turns, held=held), pace=Pace(400, 0.5, 1))
    assert 100 < steps < 400
    assert error(network, held[0]) < 0.2 * float(np.square(held[0].y).mean())


def out_of_memory_over(most: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def limited(x: Tensor, y: Tensor) -> Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(x, y)

    return limited


def test_where_the_gpu_runs_out_of_memory_the_batch_is_taken_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    """The parts' gradients sum to the batch's, also where the items' weights differ."""

    def weighted(step: int) -> Batch:
        b = batch_of(step)
        return Batch(b.x, b.y, np.linspace(0.5, 2.0, len(b), dtype=np.float32))

    whole, parts = line(), line()
    train(lesson(whole, batch=weighted, held=[]), pace=PACE)
    short = lesson(parts, batch=weighted, held=[])
    limited = Lesson(short.name, parts, short.rates, short.batch, out_of_memory_over(3, short.loss))
    train(limited, pace=PACE)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert "going on in 4 parts" in caplog.text


def test_held_frames_are_judged_in_parts_too() -> None:
    """Where a look takes more memory than a step; the same is kept as with memory enough."""
    whole, parts = line(), line()
    train(lesson(whole), pace=PACE)
    short = lesson(parts)
    limited = out_of_memory_over(3, short.loss)

    def looked_at(x: Tensor, y: Tensor) -> Tensor:
        return short.loss(x, y) if torch.is_grad_enabled() else limited(x, y)

    train(replace(short, loss=looked_at), pace=PACE)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["torch.optim.AdamW.step", "torch.nn.Module.to"])
def test_memory_that_ends_elsewhere_is_a_clear_error(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = lesson(line())

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(where, full)
    with pytest.raises(InputError, match=r"fine-tuning's weights and moments .* choose a smaller --size"):
        train(given, pace=PACE)


@pytest.mark.parametrize("factor", [1e30, float("nan")])
def test_one_exploding_batch_is_left_out(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    def exploding(step: int) -> Batch:
        b = batch_of(step)
        return Batch(b.x * np.float32(factor), b.y * np.float32(factor), b.weights) if step == 7 else b

    network = line()
    before = error(network, batch_of(1))
    assert train(lesson(network, batch=exploding, held=[]), pace=PACE) == PACE.steps
    assert error(network, batch_of(1)) < before / 4
    assert "step 7 is left out" in caplog.text
    assert caplog.text.count("left out") == 1


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    """The loss is finite, its gradient is not: the root of 0."""
    network, plain = line(), line()
    given = lesson(network, held=[])

    def rooted(x: Tensor, y: Tensor) -> Tensor:
        return given.loss(x, y) + (0 * network(x)).square().sum().sqrt()

    with pytest.raises(InputError, match="no finite loss or gradient for 5 steps in a row"):
        train(replace(given, loss=rooted), pace=PACE)
    assert same(network, plain)


def test_a_training_that_only_explodes_stops_and_says_so() -> None:
    def exploding(step: int) -> Batch:
        b = batch_of(step)
        return Batch(b.x * np.float32(1e30), b.y * np.float32(1e30), b.weights) if step >= 10 else b

    network, taken = lesson(line(), batch=exploding), list[int]()
    around = Surroundings(progress=lambda _what, step, _all: taken.append(step))
    with pytest.raises(InputError, match=r"5 steps in a row \(at step 14"):
        train(network, pace=PACE, around=around)
    assert taken[-1] == 14
    assert all(torch.isfinite(p).all() for p in network.networks.parameters())


def test_held_frames_without_a_finite_loss_do_not_choose_the_weights() -> None:
    network, plain = line(), line()
    odd = batch_of(10_000)
    train(lesson(network, held=[Batch(odd.x * np.float32(np.nan), odd.y, odd.weights)]), pace=PACE)
    train(lesson(plain, held=[]), pace=PACE)
    assert same(network, plain)


def test_where_not_even_one_item_fits_it_says_what_to_do() -> None:
    one = lesson(line())
    with pytest.raises(InputError, match="choose a smaller --size"):
        train(Lesson(one.name, one.networks, one.rates, one.batch, out_of_memory_over(0, one.loss)), pace=PACE)


def test_mixed_precision_learns_too() -> None:
    network = line()
    train(lesson(network), pace=PACE, around=Surroundings(compute=Compute("cpu", mixed=True)))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in network.parameters())
    assert error(network, batch_of(1)) < 0.5 * float(np.square(batch_of(1).y).mean())


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="choose auto or cpu"):
        compute_on("cuda:7")
    assert compute_on("cpu") == Compute("cpu", mixed=False)


def test_every_item_comes_once_before_any_comes_again() -> None:
    draw = Draw(np.full(10, 0.1), size=4, seed=3)
    drawn = np.concatenate([draw(s) for s in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert (draw(3) == Draw(np.full(10, 0.1), size=4, seed=3)(3)).all()


def test_items_are_drawn_by_their_shares() -> None:
    draw = Draw(np.array([0.8, 0.2]), size=50, seed=3)
    drawn = np.concatenate([draw(s) for s in range(40)])
    assert 0.15 < drawn.mean() < 0.25


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [cosine(s, 100) for s in range(100)]
    assert int(np.argmax(rates)) in (9, 10)
    assert rates[0] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.001


def test_a_gpu_is_asked_to_calculate_alike_and_a_cpu_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, bool]] = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that what is set here is taken back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(
        "torch.use_deterministic_algorithms", lambda mode, *, warn_only: asked.append((mode, warn_only))
    )
    monkeypatch.setattr("torch.zeros", lambda *_, **__: None)
    assert compute_on("cpu") == Compute()
    assert asked == []
    assert compute_on("cuda:1") == Compute("cuda:1", mixed=True)
    assert asked == [(True, True)]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
