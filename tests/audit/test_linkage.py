from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featureloop.audit.descriptors import Codebooks, describe
from featureloop.audit.linkage import LinkageSettings, attack_linkage
from featureloop.audit.metric import cosine, whitening
from featureloop.audit.rows import row_votes
from featureloop.audit.takes import take, takes_of
from tests.audit.scenes import frames_of, lab_of, scene

QUICK = LinkageSettings(takes=2, steps=20, control=24, held_images=8, curve=(0.5,))


def of(finding, figure, arm):
    return [m for m in finding.measures if m.figure == figure and m.arm == arm]


def test_records_of_one_scene_are_linked_and_values_of_no_frame_are_not(tmp_path):
    found = attack_linkage(lab_of(tmp_path), QUICK)
    top1 = found.headline["linkage.top1"]
    assert found.controls
    assert top1.value > 0.7
    assert top1.value == max(m.value for m in of(found, "top-1", "release"))
    assert found.headline["linkage.auc"].value > 0.8
    assert max(m.low for m in of(found, "top-1", "random")) < 0.4
    assert [p.images for p in found.curve] == [15, 30]
    assert found.charts[0].image.startswith("data:image/png")
    assert of(found, "image-to-record top-1, the same image", "release")[0].value == 1.0


def test_an_attacker_may_release_its_takes_several_times_where_chance_decides_what_leaves(tmp_path):
    few, whole = lab_of(tmp_path / "few", victims=5, release="set subset=2"), lab_of(tmp_path / "whole", victims=5)
    once, often = (attack_linkage(few, replace(QUICK, draws=n)) for n in (1, 3))
    assert "with 2 takes of each, released 3 times" in often.budget
    assert "released" not in once.budget
    assert of(once, "AUC", "release") != of(often, "AUC", "release")
    same = attack_linkage(whole, replace(QUICK, draws=3))
    assert "released" not in same.budget
    assert same.measures == attack_linkage(whole, QUICK).measures


def test_the_same_seed_finds_the_same(tmp_path):
    one, two = (attack_linkage(lab_of(tmp_path / name, victims=5), QUICK) for name in ("a", "b"))
    assert one.measures == two.measures


def test_where_patients_have_one_image_two_takes_stand_for_two_records(tmp_path):
    lab = lab_of(tmp_path, task="classification", attacker=24, victims=20, each=1)
    found = attack_linkage(lab, QUICK)
    assert found.headline["linkage.top1"].chance == pytest.approx(1 / 20)
    assert found.headline["linkage.top1"].value > 0.3
    assert any("one image each" in n for n in found.notes)
    assert not of(found, "top-1", "baseline")


def test_descriptors_do_not_depend_on_the_order_of_rows(tmp_path):
    lab = lab_of(tmp_path)
    books = Codebooks(lab.mine, seed=1)
    a = describe(lab.theirs, books)
    turned = [type(r)(r.values[::-1].copy(), r.rows[::-1].copy(), r.payload, r.frames) for r in lab.theirs]
    b = describe(turned, books)
    for name, x in a.items():
        assert b[name] == pytest.approx(x, abs=1e-4), name


@pytest.mark.parametrize("unit", [16, 4])
def test_of_a_form_that_keeps_order_the_order_is_described(tmp_path, unit):
    lab = lab_of(tmp_path)
    books = Codebooks(lab.mine, seed=1, unit=unit)
    rng = np.random.default_rng(0)
    turned = [type(r)(rng.permutation(r.values), r.rows, r.payload, r.frames) for r in lab.theirs]
    a, b = (describe(releases, books) for releases in (lab.theirs, turned))
    assert b["second moments"] == pytest.approx(a["second moments"], abs=1e-3)
    assert np.abs(b["order"] - a["order"]).max() > 0.1


def test_whitened_descriptors_are_uncorrelated_and_too_few_are_not_whitened():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    made = whitening(x, 6)
    assert made is not None
    assert np.cov(made(x).T) == pytest.approx(np.eye(6), abs=0.1)
    assert whitening(x[:10], 6) is None


def test_nearest_rows_find_a_bag_that_shares_rows(tmp_path):
    lab = lab_of(tmp_path)
    votes = row_votes(lab.theirs[:4], lab.theirs, Codebooks(lab.mine, seed=1))
    assert votes.argmax(1).tolist() == [0, 1, 2, 3]
    assert votes[0, 0] == pytest.approx(1.0, abs=1e-3)


def test_a_take_is_the_same_scene_and_not_the_same_picture():
    picture, other = scene(1), scene(2)
    taken = take(picture, np.random.default_rng(3))
    assert taken.shape == picture.shape
    assert taken.dtype == np.uint8
    assert not (taken == picture).all()
    like, unlike = (cosine(*(p.reshape(1, -1) - 127.5 for p in (taken, x)))[0, 0] for x in (picture, other))
    assert like > unlike + 0.3


def test_takes_follow_from_the_seed():
    frames = frames_of(range(3), each=1)
    one, same, other = (takes_of(frames, seed=(s,)) for s in (1, 1, 2))
    assert all((a.pixels == b.pixels).all() for a, b in zip(one, same, strict=True))
    assert not all((a.pixels == b.pixels).all() for a, b in zip(one, other, strict=True))
