"""The diffusion attacker: it draws the same from the same seed, and nearer where its condition tells something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featureloop.audit.denoiser import Denoiser, MapCondition, SetCondition
from featureloop.audit.diffusion import STEPS_ON_A_GPU, Diffusion, DiffusionSettings, train_diffusion
from featureloop.audit.image_distance import SIDE, psnr
from featureloop.core.ports import silent
from featureloop.core.types import Float32

COUNT, ASKED, ROWS, CHANNELS = 48, 12, 4, 6


def toys() -> tuple[Float32, torch.Tensor]:
    """Pictures that get lighter or darker to the right, in a colour of their own, and bags whose rows tell which."""
    rng = np.random.default_rng(3)
    which = rng.choice([-1.0, 1.0], COUNT + ASKED)[:, None, None, None]
    colours = rng.normal(0.5, 0.06, (COUNT + ASKED, 3, 1, 1))
    pictures = np.clip(colours + 0.3 * which * np.linspace(-1, 1, SIDE) * np.ones((SIDE, 1)), 0, 1).astype(np.float32)
    rows = which[:, 0] + rng.normal(0, 0.3, (COUNT + ASKED, ROWS, CHANNELS))
    return pictures, torch.from_numpy(rows.astype(np.float32))


def trained(rows: torch.Tensor, pictures: Float32, *, steps: int) -> Diffusion:
    groups = np.array([f"p{i // 2}" for i in range(COUNT)])
    return train_diffusion(
        lambda: Denoiser(SetCondition(CHANNELS), width=8),
        lambda _rng, at: rows[at],
        pictures[:COUNT],
        groups,
        steps=steps,
        batch=4,
        seed=1,
        progress=silent,
        what="toys",
    )


def test_it_draws_nearer_than_the_mean_image_where_rows_tell_something_and_farther_where_they_mislead() -> None:
    pictures, rows = toys()
    model, true = trained(rows, pictures, steps=40), pictures[COUNT:]
    guess = psnr(np.broadcast_to(pictures[:COUNT].mean(0), true.shape).astype(np.float32), true)

    def gain(asked: torch.Tensor, samples: int) -> float:
        """PSNR over the mean image's, in dB, of the mean of samples."""
        drawn = [model.draw([x[None] for x in asked], steps=4, seed=i) for i in range(samples)]
        return float((psnr(np.mean(drawn, axis=0, dtype=np.float32), true) - guess).mean())

    own, asked = gain(rows[COUNT:], 4), rows[COUNT:]
    assert own > 1
    assert own > gain(asked, 1), "what a sample makes up is averaged away"
    assert gain(-asked, 4) < own - 1


def test_pictures_are_in_range_and_follow_from_the_seed_alone() -> None:
    pictures, rows = toys()
    asked = [x[None] for x in rows[COUNT:]]
    first, again = (trained(rows, pictures, steps=1).draw(asked, steps=2, seed=5) for _ in range(2))
    assert first.shape == (ASKED, 3, SIDE, SIDE)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, trained(rows, pictures, steps=1).draw(asked, steps=2, seed=6))


def test_a_new_network_draws_the_mean_image_in_one_step() -> None:
    pictures, rows = toys()
    centre = torch.from_numpy(pictures.mean(0))
    model = Diffusion(Denoiser(SetCondition(CHANNELS)).eval(), centre, spread=0.3, kept=0)
    assert np.allclose(model.draw([rows[:1]], steps=1, seed=1)[0], centre.numpy(), atol=1e-5)


def test_a_set_is_the_same_condition_in_any_order_and_a_map_is_not() -> None:
    torch.manual_seed(0)
    noisy, time = torch.randn(1, 3, SIDE, SIDE), torch.full((1,), 0.6)
    bag, grid = torch.randn(1, 9, CHANNELS), torch.randn(1, CHANNELS, 16, 16)
    for condition, one, other, alike in (
        (SetCondition(CHANNELS), bag, bag[:, torch.randperm(9)], True),
        (MapCondition(CHANNELS), grid, grid.flip(3), False),
    ):
        network = Denoiser(condition).eval()
        with torch.no_grad():
            for p in network.parameters():  # What begins as zero would hide any difference.
                p.add_(0.05 * torch.randn(p.shape))
            found = [network(noisy, time, network.condition(x)) for x in (one, other)]
        assert torch.allclose(*found, atol=1e-4) == alike


@pytest.mark.parametrize(("there", "steps"), [(False, 0), (True, STEPS_ON_A_GPU)])
def test_it_is_run_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, *, there: bool, steps: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert DiffusionSettings().steps == steps
    assert DiffusionSettings(steps=7).steps == 7
    assert DiffusionSettings(steps=7).halved().steps == 4
