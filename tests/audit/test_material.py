from __future__ import annotations

import numpy as np
import pytest

from featureloop.audit.material import DRAWS, Lab, Party, party, split_party
from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped
from featureloop.testing import tiny_package
from tests.audit.conftest import noisy_frames


def lab(tmp_path, *, pooling=()) -> Lab:
    package = tiny_package(tmp_path / "p", pooling=pooling) if pooling else tiny_package(tmp_path / "p")
    whole, _ = party(noisy_frames(12, groups=6), size=package.manifest.preprocessing.size)
    return Lab(package, *split_party(whole))


def test_parties_share_no_patient(tmp_path):
    whole, _ = party(noisy_frames(40, groups=10), size=32)
    mine, theirs = split_party(whole)
    assert not set(mine.groups) & set(theirs.groups)
    assert len(mine) + len(theirs) == 40
    with pytest.raises(InputError, match="both sides"):
        Lab(tiny_package(tmp_path / "p"), whole, whole)


def test_a_party_is_thinned_within_every_group_and_tells_what_it_could_not_read():
    thinned, bad = party([*noisy_frames(80, groups=8), Skipped("x.png", "no image")], size=32, most=40)
    assert [b.name for b in bad] == ["x.png"]
    assert 32 <= len(thinned) <= 48
    assert len(set(thinned.groups)) == 8


def test_too_few_patients_are_refused():
    with pytest.raises(InputError, match="at least 4 patients"):
        party(noisy_frames(20, groups=3), size=32)


def test_a_release_is_what_the_bytes_decode_to(tmp_path):
    made = lab(tmp_path)
    maps, released = made.ordered(made.victims.frames), made.release(made.victims.frames)
    form = made.package.manifest.released
    step = (np.array(form.high) - np.array(form.low)) / (np.array(form.levels) - 1)
    for ordered, r in zip(maps, released, strict=True):
        assert r.values.shape == ordered.shape
        assert r.payload > 0
        a, b = (np.sort(x, axis=0) for x in (ordered, r.values))
        assert (np.abs(a - b) <= step / 2 + 1e-5).all()


@pytest.mark.parametrize(
    "release",
    ["set subset=5,balanced", "window=2", "none", "set subset=4 mix=2", "set noise=0.5,clip=1.0", "set quantize=3"],
)
def test_what_is_attacked_is_the_very_form_of_the_package(tmp_path, release):
    package = tiny_package(tmp_path / "p", release=release)
    whole, _ = party(noisy_frames(16, groups=8), size=package.manifest.preprocessing.size)
    made = Lab(package, *split_party(whole))
    released, form = made.release(made.victims.frames), package.manifest.released.form
    assert all(r.values.shape == (form.rows(4), 8) for r in released)
    assert all(r.rows.shape == (form.rows(4), 16) for r in released)
    assert len({i for r in released for i in r.frames}) == form.mix * len(released)
    assert len(released) == len(made.victims) // form.mix
    for r in released:
        assert len({made.victims.groups[i] for i in r.frames}) == form.mix
    if release == "none":
        ordered = made.ordered(made.victims.frames)
        assert all(np.abs(a - r.values).max() < 0.2 for a, r in zip(ordered, released, strict=True))
    again = Lab(package, made.attacker, made.victims).release(made.victims.frames)
    assert all((a.values == b.values).all() for a, b in zip(released, again, strict=True))
    assert len(made.random(released, seed=1)) == len(released)


def test_the_negative_control_has_the_channels_values_and_knows_no_frame(tmp_path):
    made = lab(tmp_path)
    released = made.release(made.victims.frames)
    first, second = made.random(released, seed=1), made.random(released, seed=1)
    assert all((a.values == b.values).all() for a, b in zip(first, second, strict=True))
    assert not (first[0].values == released[0].values).all()
    for c in range(first[0].values.shape[1]):
        assert set(first[0].values[:, c]) <= {v for r in released for v in r.values[:, c]}


def test_a_party_of_frames_without_groups_has_one_each():
    anonymous = [Frame(f.pixels, f.name) for f in noisy_frames(6, groups=6)]
    made, _ = party(anonymous, size=32)
    assert isinstance(made, Party)
    assert len(set(made.groups)) == 6


def test_the_positive_control_is_an_ordered_map_that_shows_the_frame(tmp_path):
    made = lab(tmp_path)
    maps = made.shallow(made.victims.frames)
    assert maps.ndim == 4
    assert maps.shape[2] >= made.size // 8
    grey = made.victims.pixels(maps.shape[2]).astype(float).mean(axis=3)
    # The tiny extractor has one layer of stride 16, so the control is the means of the pixels themselves.
    assert np.corrcoef(maps.mean(axis=1).ravel(), grey.ravel())[0, 1] > 0.8


def test_where_chance_decides_what_leaves_there_are_several_draws_and_the_first_is_what_leaves(tmp_path):
    package = tiny_package(tmp_path / "p", release="set subset=5,balanced")
    whole, _ = party(noisy_frames(16, groups=8), size=package.manifest.preprocessing.size)
    made = Lab(package, *split_party(whole))
    assert len(made.their_draws) == DRAWS
    assert [r.values.tolist() for r in made.theirs] == [r.values.tolist() for r in made.release(made.victims.frames)]
    a, b = made.their_draws[:2]
    assert [r.frames for r in a] == [r.frames for r in b]
    assert any(x.values.tolist() != y.values.tolist() for x, y in zip(a, b, strict=True))
    assert len(lab(tmp_path / "whole").their_draws) == 1
