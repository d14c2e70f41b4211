"""A neck that is trained against what it must not tell: what it begins from, what it unlearns, and what is kept."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_founding import TINY, Killed, frames, small_backbone

from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.model.adversaries import Adversaries, linkage_loss
from featureloop.model.checkpoint import Checkpoint
from featureloop.model.founding import Networks, train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.leak import Leak, fresh_leak
from featureloop.model.lesson import ALONE, Surroundings
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import Transform, fit_transform
from featureloop.model.private_neck import PrivateNeck, gaussian_bits, on_taps, starting_neck, train_neck
from featureloop.model.takes import Pairs, Takes, form_of, grid_places

SPEC = RecognizerSpec("set", 16, 1, 1)
SETTINGS = FoundingSettings(
    adversary=8.0,
    adversary_rate=0.3,
    adversary_epochs=40.0,
    batch=8,
    bits_per_vector=17.0,
    learning_rate=1e-2,
    width=16,
    blocks=1,
)
SIDE, VERSIONS = 6, 3


def telling(count: int = 16, *, seed: int = 0) -> Takes:
    """Takes of five channels: the target, x, two numbers of the frame's own, and noise."""
    rng, places = np.random.default_rng(seed), grid_places(SIDE)
    targets = rng.integers(0, 2, (count * VERSIONS, SIDE**2, 1)).astype(np.uint8)
    own = np.repeat(rng.uniform(-1, 1, (count, 2)), VERSIONS, axis=0)[..., None] * np.ones(SIDE**2)
    x = np.broadcast_to(places[:, 0], own[:, 0].shape)
    noise = rng.normal(0, 0.3, x.shape)
    values = 0.4 * np.stack([2.0 * targets[..., 0] - 1, x, own[:, 0], own[:, 1], noise], axis=1)
    where = np.broadcast_to(places, (count * VERSIONS, *places.shape)).astype(np.float32)
    groups = np.arange(count, dtype=np.float32).repeat(VERSIONS)
    return Takes(values.astype(np.float16), targets, where, groups, VERSIONS)


def plain(channels: int = 5) -> Transform:
    """A neck that lets everything through, of 15 levels."""
    return Transform(np.eye(channels, dtype=np.float32), np.zeros(channels, np.float32), (15,) * channels, 17.0)


def trained(settings: FoundingSettings, takes: Takes) -> PrivateNeck:
    start = starting_neck(plain(), plain(), hidden=settings.adversary_hidden, seed=1)
    shares = np.full(takes.frames, 1 / takes.frames)
    return train_neck(
        start, plain().levels, takes, SPEC, task=Task.SEGMENTATION, shares=shares, settings=settings, around=ALONE
    )


@pytest.fixture(scope="module")
def unlearned() -> PrivateNeck:
    """A neck that was trained against telling."""
    return trained(SETTINGS, telling())


def told(neck: PrivateNeck | None, *, count: int = 16) -> Leak:
    """What a neck, or None for one that lets everything through, tells of so many unseen frames."""
    of = neck or PrivateNeck(starting_neck(plain(), plain(), hidden=0, seed=1), plain().levels, 0.0)
    return fresh_leak(
        of.neck,
        of.levels,
        telling(),
        telling(count, seed=9),
        SPEC,
        settings=SETTINGS,
        around=ALONE,
        name="fresh adversaries",
    )


def test_it_unlearns_place_and_keeps_to_its_bits(unlearned: PrivateNeck) -> None:
    before, after = told(None), told(unlearned)
    assert before.position > 0.3
    assert before.linkage > 0.4
    assert after.position < before.position / 2
    assert unlearned.bits <= SETTINGS.bits_per_vector


@pytest.mark.xfail(
    strict=False,
    reason="16 unseen frames decide by chance, and by the processor's rounding; on 64 linkage doesn't fall: from 0.30 "
    "to 0.46 and 0.31 for two seeds, as ADR 10 finds of real frames",
)
def test_it_unlearns_the_frame(unlearned: PrivateNeck) -> None:
    assert told(unlearned, count=64).linkage < 0.75 * told(None, count=64).linkage


def test_the_same_seed_gives_the_same_neck() -> None:
    quick = replace(SETTINGS, adversary_epochs=3.0, adversary_hidden=4)
    a, b = (trained(quick, telling()).neck.state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert a["up.weight"].abs().max() > 0


def test_it_begins_as_the_computed_neck_and_goes_back_onto_the_taps() -> None:
    rng = np.random.default_rng(1)
    joined = (rng.normal(size=(3000, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)
    computed = fit_transform(joined, bits_per_vector=9.0, max_channels=6)
    basis = fit_transform(joined, bits_per_vector=math.inf, max_channels=10)
    taps = torch.from_numpy(joined[:40].T.copy())[None, ..., None]
    for hidden in (0, 5):
        neck = on_taps(starting_neck(computed, basis, hidden=hidden, seed=1), basis)
        np.testing.assert_allclose(neck(taps).detach(), computed.neck()(taps).detach(), atol=1e-4)


def test_bits_of_normal_channels_are_their_entropy() -> None:
    """Against the differential entropy of a normal channel less the step's logarithm (Cover & Thomas, 8.3)."""
    values = torch.from_numpy(np.random.default_rng(1).normal(0, 0.2, (4, 5000, 1)).astype(np.float32))
    form = form_of((41,), ())
    expected = 0.5 * math.log2(2 * math.pi * math.e * 0.2**2) - math.log2(form.step[0])
    assert gaussian_bits(values, form).item() == pytest.approx(expected, abs=0.02)


def test_knowing_nothing_costs_one_and_tells_nothing() -> None:
    torch.manual_seed(1)
    groups = torch.arange(8.0).repeat_interleave(2)
    same = torch.ones(16, 4) / 2
    np.testing.assert_allclose(linkage_loss(same, groups, torch.tensor(10.0)), 1.0, atol=1e-5)
    assert linkage_loss(torch.eye(8).repeat_interleave(2, 0), groups, torch.tensor(50.0)).max() < 1e-3
    assert (linkage_loss(torch.eye(8), torch.arange(8.0), torch.tensor(10.0)) == 1).all()
    heads = Adversaries(4, rows=True)
    places = torch.from_numpy(grid_places(4)).expand(16, 16, 3)
    told = heads.frozen((released := torch.randn(16, 16, 4)).requires_grad_(), places, groups)
    told.loss().sum().backward()
    assert released.grad is not None
    assert all(p.grad is None for p in heads.parameters())
    assert 0 <= told.told().item() < 0.2


def test_pairs_are_of_one_group_and_of_two_frames_where_it_has_them() -> None:
    takes = replace(telling(4), groups=np.array([0, 0, 1, 2], np.float32).repeat(VERSIONS))
    pairs = Pairs(takes)(np.tile(np.arange(4), 50), np.random.default_rng(1)).reshape(-1, 2)
    assert (takes.groups[pairs[:, 0]] == takes.groups[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    crossing = pairs[:, 0] // VERSIONS != pairs[:, 1] // VERSIONS
    assert crossing[np.isin(pairs[:, 0] // VERSIONS, [0, 1])].any()
    assert not crossing[pairs[:, 0] // VERSIONS > 1].any()


def founded(form: str, checkpoint: Checkpoint | None = None, around: Surroundings = ALONE) -> Networks:
    """A founding of four frames, two held."""
    given = frames(6)
    return train_networks(
        given[:4],
        task=Task.SEGMENTATION if form == "set" else Task.CLASSIFICATION,
        classes=1 if form == "set" else 3,
        settings=replace(TINY, adversary=2.0, adversary_epochs=4.0),
        held=given[4:],
        backbone=small_backbone(),
        checkpoint=checkpoint,
        around=around,
    )


def test_a_killed_founding_goes_on_to_the_same_neck(tmp_path: Path) -> None:
    curves: set[str] = set()

    def dies(what: str, done: int, _total: int) -> None:
        if what.startswith("neck") and done == 7:
            raise Killed

    undisturbed = founded("set", around=Surroundings(log=lambda name, *_: curves.add(name)))
    with pytest.raises(Killed):
        founded("set", Checkpoint(tmp_path, "same", every_s=0.0), Surroundings(progress=dies))
    again = founded("set", Checkpoint(tmp_path, "same"))
    for name, value in undisturbed.neck.state_dict().items():
        np.testing.assert_allclose(value.numpy(), again.neck.state_dict()[name].numpy(), rtol=1e-4, atol=1e-5)
    assert undisturbed.levels == again.levels
    assert {"neck/loss", "computed neck/position R2", "trained neck/linkage top-1"} <= curves


def test_pooled_vectors_have_no_place_to_tell() -> None:
    before, after = founded("pool").leaks
    assert math.isnan(before.position)
    assert 0 <= after.linkage <= 1
    assert after.text.startswith("linkage top-1")


def test_settings_that_go_without_an_adversary_are_refused() -> None:
    for wrong in ({"adversary": -1.0}, {"adversary_hidden": 8}, {"adversary": 1.0, "augmentations": 0}):
        with pytest.raises(InputError):
            FoundingSettings(**wrong)  # type: ignore[arg-type]  # one of several fields
