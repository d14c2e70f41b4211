"""Inversion: the attackers draw where there is something to draw from, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.audit.differentiable import Differentiable
from featureloop.audit.diffusion import DiffusionSettings
from featureloop.audit.findings import Arm, Measure
from featureloop.audit.image_distance import SIDE, Perceptual, psnr, ssim
from featureloop.audit.inversion import attack_inversion
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.material import DRAWS, Lab, Release, party, split_party
from featureloop.audit.position import PositionSettings, restore
from featureloop.audit.reconstructions import Case, linked, standardized
from featureloop.audit.whitebox import Components, Pixels, Search, invert, to_bag, to_map
from featureloop.core.errors import PackageError
from featureloop.core.types import Float32, Frame, Task
from featureloop.model.export import export_onnx
from featureloop.model.local_context import LocalContext
from featureloop.model.manifest import Preprocessing
from featureloop.model.package import EXTRACTOR, Package, seal_package
from featureloop.model.preprocess import to_input
from featureloop.model.runtime import Runtime
from featureloop.testing import tiny_package
from tests.audit.test_text import smooth

QUICK = InversionSettings(
    victims=16,
    steps=3,
    control_steps=40,
    surrogate_steps=10,
    batch=6,
    searched=1,
    search=Search(steps=4),
    sheet=2,
    diffusion=DiffusionSettings(steps=0),
)


class Layers(nn.Module):
    """Every kind of layer that extractors usually have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.SiLU(), nn.AvgPool2d(2), nn.LeakyReLU()
        )
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A map (B, 8, S / 16, S / 16)."""
        a = self.first(x)
        b = nn.functional.interpolate(self.deep(a), scale_factor=4.0, mode="nearest")
        return torch.tanh(nn.functional.avg_pool2d(self.last(torch.cat([a, b], dim=1)), 8) * 0.5 - 0.1)


def with_extractor(package: Package, network: nn.Module) -> Package:
    size = package.manifest.preprocessing.size
    path, example = package.path / EXTRACTOR, torch.zeros(1, 3, size, size)
    export_onnx(network.eval(), example, path, source="image", result="features", dynamic={})
    return seal_package(package.path, package.manifest)


def among_neighbours() -> nn.Module:
    """Edges padded, norms of the whole map, shapes that are copied; and an edge of zeros."""
    context = LocalContext(3, width=8)
    return nn.Sequential(nn.AvgPool2d(16), nn.ZeroPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, 1), context)


@pytest.mark.parametrize("network", [None, Layers(), among_neighbours()], ids=["tiny", "layers", "neighbours"])
def test_the_torch_extractor_is_the_packages_and_has_a_gradient(tmp_path: Path, network: nn.Module | None) -> None:
    torch.manual_seed(0)
    package = tiny_package(tmp_path / "p")
    package = package if network is None else with_extractor(package, network)
    frame = smooth(1, groups=1)[0].pixels
    x = torch.from_numpy(to_input(frame, package.manifest.preprocessing)).requires_grad_()
    found = Differentiable(package)(x)
    expected = Runtime(package).extract_input(x.detach().numpy())
    assert np.allclose(
        found.detach().numpy()[0].reshape(found.shape[1], -1).T, expected.reshape(-1, found.shape[1]), atol=1e-4
    )
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erf(nn.functional.avg_pool2d(x, 16))

    with pytest.raises(PackageError, match="Erf"):
        Differentiable(with_extractor(tiny_package(tmp_path / "p"), Odd()))


def test_the_search_finds_an_image_from_an_ordered_map_and_nears_a_bag() -> None:
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.Tanh()).requires_grad_(False)
    preprocessing = Preprocessing(SIDE)
    true = smooth(1, groups=1)[0].pixels.transpose(2, 0, 1).astype(np.float32) / 255
    with torch.no_grad():
        z = network((torch.from_numpy(true)[None] * 255 - 127) / 128)
    grey = np.full_like(true, 0.3)
    found = invert(
        network,
        to_map(z[0].numpy()),
        Pixels(grey),
        preprocessing,
        search=Search(steps=100, smooth=0.0),
    )
    assert psnr(found[None], true[None])[0] > psnr(grey[None], true[None])[0] + 6
    rows = z[0].flatten(1).T.numpy()
    aim = to_bag(rows[np.random.default_rng(0).permutation(len(rows))], rows.std(0) + 1e-3, seed=1)
    assert float(aim(z)) < 1e-6, "the order of rows counts for nothing"
    basis = (grey.reshape(-1), np.eye(5, grey.size, dtype=np.float32), np.ones(5, np.float32))
    start = Components(grey, basis)
    before = float(aim(network((start.picture().detach() * 255 - 127) / 128)))
    after = invert(network, aim, start, preprocessing, search=Search(steps=20))
    assert float(aim(network((torch.from_numpy(after)[None] * 255 - 127) / 128))) <= before


def test_distances_know_the_same_from_another() -> None:
    a, b = (
        np.stack([f.pixels.transpose(2, 0, 1) for f in smooth(6, groups=6)[i::2]]).astype(np.float32) / 255
        for i in (0, 1)
    )
    looks = Perceptual()
    assert psnr(a, a).min() == pytest.approx(100)
    assert ssim(a, a) == pytest.approx(np.ones(3))
    assert looks(a, a) == pytest.approx(np.zeros(3), abs=1e-6)
    assert (psnr(a, b) < 60).all()
    assert (looks(a, b) > 0).all()


def shapes(count: int, *, groups: int) -> list[Frame]:
    """Frames of one bright block at a place that the group has."""
    rng = np.random.default_rng(5)
    at = rng.integers(4, 36, (groups, 2))
    out = []
    for i in range(count):
        pixels = np.full((64, 64, 3), 60, np.uint8)
        y, x = at[i % groups] + rng.integers(-3, 4, 2)
        pixels[y : y + 24, x : x + 24] = rng.integers(140, 255, 3)
        out.append(Frame(pixels, f"{i}.png", group=f"g{i % groups}"))
    return out


def quick_lab(package: Package, frames: list[Frame]) -> Lab:
    """A lab whose restorer has learned little, and in no time."""
    whole, _ = party(frames, size=64)
    made = Lab(package, *split_party(whole))
    made.learned["restorer"] = restore(made, PositionSettings(bags=8, steps=5))
    return made


def test_the_control_is_drawn_and_noise_is_not(tmp_path: Path) -> None:
    found = attack_inversion(quick_lab(tiny_package(tmp_path / "p"), shapes(64, groups=16)), QUICK)
    gain = {(m.arm, m.by): m for m in found.measures if m.figure == "PSNR gain, dB"}
    assert found.controls
    assert gain["shallow", "network"].value > 2
    assert max(m.value for (arm, _), m in gain.items() if arm == "random") < 1
    assert {by for arm, by in gain if arm == "release"} >= {
        "network",
        "surrogate without the package",
        "white-box search",
    }
    assert set(found.headline) == {"inversion.gain_db", "inversion.linkage_top1"}
    assert [p.images for p in found.curve] == [16, 16, 32], "of at least four patients"
    ridge = next(m for (arm, by), m in gain.items() if arm == "release" and by.startswith("linear"))
    assert found.curve[-1].value == ridge.value
    assert found.sheet is not None
    assert found.sheet.startswith("data:image/jpeg")


@pytest.mark.parametrize("steps", [0, 3])
def test_diffusion_is_run_on_all_arms_where_it_has_steps_and_the_finding_says_so(tmp_path: Path, steps: int) -> None:
    lab = quick_lab(tiny_package(tmp_path / "p"), shapes(24, groups=8))
    little = replace(
        QUICK, victims=4, control_steps=2, surrogate_steps=2, searched=0,
        diffusion=DiffusionSettings(steps=steps, batch=4, samples=2, drawing=2),
    )  # fmt: skip
    found = attack_inversion(lab, little)
    by = {(m.arm, m.by) for m in found.measures if m.by.startswith("diffusion")}
    names = {"diffusion, one sample", "diffusion, mean of 2"} if steps else set()
    linked_again = {("release", f"{name}, Z-normed") for name in names}
    assert by == {(arm, name) for arm in ("release", "shallow", "random") for name in names} | linked_again
    said = next(n for n in found.notes if "iffusion" in n)
    assert ("were not run" in said) == (steps == 0)
    assert ("3 steps of 4 images on a" in said) == ("2 steps of 4 images on a" in said) == (steps == 3)


@pytest.mark.parametrize("task", [Task.SEGMENTATION, Task.CLASSIFICATION])
def test_the_same_seed_finds_the_same(tmp_path: Path, task: Task) -> None:
    lab = quick_lab(tiny_package(tmp_path / "p", task=task), shapes(24, groups=8))
    given = InversionSettings(
        victims=6,
        steps=2,
        control_steps=2,
        surrogate_steps=2,
        searched=1,
        search=Search(steps=2),
        sheet=1,
        diffusion=DiffusionSettings(steps=2, batch=4, samples=2, drawing=2),
    )
    assert attack_inversion(lab, given).headline == attack_inversion(lab, given).headline


def test_one_and_the_same_picture_is_linked_by_chance_and_originals_as_they_are_in_every_draw(lab: Lab) -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat([f"g{i}" for i in range(6)], 4)
    of_group = rng.random((6, 3, SIDE, SIDE)).astype(np.float32)
    true = np.clip(np.repeat(of_group, 4, axis=0) + 0.01 * rng.random((24, 3, SIDE, SIDE)), 0, 1).astype(np.float32)
    twice = np.concatenate([true, true])
    case = Case([], true[:0], groups[:0], [], twice, np.tile(groups, 2), [], draws=2)
    alike = np.broadcast_to(true.mean(0), twice.shape).astype(np.float32)
    blind, clear = (linked(lab, case, case.by_draw(p), "release", "x") for p in (alike, twice))
    assert [m.by for m in clear] == ["x", "x", "x, Z-normed", "x, Z-normed"]
    assert [m.value for m in clear] == [1.0] * 4
    assert [m.value for m in blind] == [pytest.approx(3 / 23), 0.5] * 2
    both = linked(lab, case, [twice[:24], alike[:24]], "release", "x")
    assert both[0].value == pytest.approx((1 + 3 / 23) / 2), "the mean over those who draw"


@pytest.mark.parametrize(("task", "attackers"), [(Task.SEGMENTATION, 1), (Task.CLASSIFICATION, 3)])
def test_pictures_of_pooled_vectors_are_searched_for_by_several_attackers(
    tmp_path: Path, task: Task, attackers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Float32]] = {}

    def kept(lab: Lab, case: Case, drawn: Sequence[Float32], arm: Arm, by: str) -> list[Measure]:
        if arm == "release":
            seen.setdefault(by, list(drawn))
        return linked(lab, case, drawn, arm, by)

    monkeypatch.setattr("featureloop.audit.inversion.linked", kept)
    lab = quick_lab(tiny_package(tmp_path / "p", task=task), shapes(24, groups=8))
    little = replace(QUICK, steps=2, control_steps=2, surrogate_steps=2, searched=0, attackers=3)
    found = attack_inversion(lab, little)
    assert {by.split(",")[0] for by in seen} >= {"linear", "nearest image", "network", "surrogate without the package"}
    for by, drawn in seen.items():
        assert len(drawn) == attackers, by
        assert not any(np.array_equal(drawn[0], other) for other in drawn[1:]), by
    assert found.budget.count("attackers") == (attackers > 1)
    assert any("the first alone" in note for note in found.notes) == (attackers > 1)


def test_pooled_vectors_under_noise_are_searched_for_in_every_draw_by_one_attacker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def kept(lab: Lab, case: Case, drawn: Sequence[Float32], arm: Arm, by: str) -> list[Measure]:
        if arm == "release":
            seen.append(len(drawn))
        return linked(lab, case, drawn, arm, by)

    monkeypatch.setattr("featureloop.audit.inversion.linked", kept)
    noisy = tiny_package(tmp_path / "p", task=Task.CLASSIFICATION, release="pool noise=1.0,clip=1.0")
    little = replace(QUICK, steps=2, control_steps=2, surrogate_steps=2, searched=0, attackers=3)
    found = attack_inversion(quick_lab(noisy, shapes(24, groups=8)), little)
    assert set(seen) == {DRAWS}
    assert "attackers" not in found.budget


def test_another_attacker_holds_as_many_patients_some_of_them_repeatedly() -> None:
    groups = np.repeat([f"g{i}" for i in range(20)], 2)
    pictures = np.arange(40, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, SIDE, SIDE), np.float32)
    known = [Release(np.full((1, 2), i, np.float32), np.zeros((1, 1), np.uint8), 1, (i,)) for i in range(40)]
    case = Case(known, pictures, groups, [], pictures[:0], groups[:0], [])
    other, same, third = (case.of_another(seed=seed) for seed in (1, 1, 2))
    at = [r.frames[0] for r in other.known]
    assert len(at) == 40
    assert 8 <= len(set(at)) / 2 < 20
    assert other.known_groups.tolist() == groups[at].tolist()
    assert np.array_equal(other.known_pictures, pictures[at])
    assert np.array_equal(other.known_pictures, same.known_pictures)
    assert not np.array_equal(other.known_groups, third.known_groups)
    few = Case(known[:4], pictures[:4], groups[:4], [], pictures[:0], groups[:0], [])
    assert all(len(set(few.of_another(seed=seed).known_groups)) == 2 for seed in range(20)), "one could not be judged"


def test_an_image_that_is_near_to_every_reconstruction_is_not_the_nearest_of_all() -> None:
    cosines = 0.2 * np.eye(6, dtype=np.float32)
    cosines[:, 0] += 0.5
    assert (cosines.argmax(1) == 0).all()
    assert standardized(cosines).argmax(1).tolist() == list(range(6))
    assert not standardized(np.full((6, 6), 0.3, np.float32)).any()
