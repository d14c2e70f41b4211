from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from featureloop.audit.attributes import attack_attributes
from featureloop.audit.material import Lab
from featureloop.audit.probes import area_of, held_out_scores
from featureloop.core.errors import InputError
from featureloop.images.sidecar import read_attributes
from tests.audit.scenes import lab_of


def test_an_attribute_that_shows_in_the_frames_is_told_and_one_that_does_not_is_not(tmp_path):
    lab = lab_of(tmp_path, attacker=40, victims=24, each=2)
    names = np.unique(lab.victims.groups)
    dim = dict(zip(names, np.arange(len(names)) % 2 == 0, strict=True))
    coin = dict(zip(names, np.random.default_rng(5).permutation(len(names)) % 2 == 0, strict=True))
    frames = tuple(
        replace(f, pixels=(f.pixels * 0.4).astype(np.uint8)) if dim[f.group] else f for f in lab.victims.frames
    )
    table = {
        f.name: {"scanner": "old" if dim[f.group] else "new", "coin": str(coin[f.group])} for f in lab.victims.frames
    }
    victims = replace(lab.victims, frames=frames, attributes=table)
    found = attack_attributes(Lab(lab.package, lab.attacker, victims, seed=1))
    assert set(found.headline) == {"attributes.site_auc", "attributes.scanner_auc", "attributes.coin_auc"}
    assert found.headline["attributes.scanner_auc"].value > 0.9
    assert found.headline["attributes.coin_auc"].low < 0.5
    assert found.controls
    above = [m for m in found.measures if m.figure == "scanner AUC above recognition alone"]
    assert {m.by for m in above} == {"linear", "perceptron"}


def with_table(lab: Lab, table: dict[str, dict[str, str]]) -> Lab:
    return Lab(lab.package, lab.attacker, replace(lab.victims, attributes=table), seed=1)


def test_values_of_too_few_victims_are_left_out_and_named(tmp_path):
    lab = lab_of(tmp_path)
    table = {f.name: {"sex": "f" if f.group == "p100" else "m"} for f in lab.victims.frames}
    found = attack_attributes(with_table(lab, table))
    assert set(found.headline) == {"attributes.site_auc"}
    assert any("'sex' was left out" in n for n in found.notes)


def test_ages_are_cut_at_their_median(tmp_path):
    lab = lab_of(tmp_path, victims=16)
    names = np.unique(lab.victims.groups).tolist()
    table = {f.name: {"age": str(40 + names.index(f.group))} for f in lab.victims.frames}
    found = attack_attributes(with_table(lab, table))
    assert found.headline["attributes.age_auc"].groups == 8


def test_a_probe_never_learns_from_a_patient_that_it_is_judged_on():
    rng = np.random.default_rng(0)
    # Patients can be told, labels can't: whoever learned from a patient would be right.
    groups = np.repeat(np.arange(40), 6)
    x = (rng.normal(size=(40, 10))[groups] + 0.01 * rng.normal(size=(240, 10))).astype(np.float32)
    labels = rng.permutation(np.repeat([0, 1], 20))[groups]
    scores = held_out_scores(x, labels, groups.astype(str), judged=np.ones(240, bool), by="linear", seed=1)
    assert 0.2 < area_of(scores, labels)(np.arange(240)) < 0.8


def test_values_that_never_change_tell_nothing():
    groups, labels = np.arange(20).astype(str), np.arange(20) % 2
    x = np.ones((20, 3), np.float32)
    scores = held_out_scores(x, labels, groups, judged=np.ones(20, bool), by="linear", seed=1)
    assert area_of(scores, labels)(np.arange(20)) == 0.5


def test_the_area_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    scores = rng.normal(size=(200, 3)) + np.eye(3)[labels]
    each = [roc_auc_score(labels == k, scores[:, k]) for k in range(3)]
    assert area_of(scores, labels)(np.arange(200)) == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image\na.png\n", "no column but 'image'"),
        ("name,sex\na.png,f\n", "not 'image'"),
        ("image,sex\n", "names no image"),
        ("image,sex\n,f\n", "line 2: image is empty"),
        ("image,sex\na.png,f\na.png,m\n", "line 3: 'a.png' has other values"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "attributes.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_attributes(path)


def test_an_empty_value_is_unknown(tmp_path):
    path = tmp_path / "attributes.csv"
    path.write_text("image;sex;age\na.png;f;\nb.png;;61\n")
    assert read_attributes(path) == {"a.png": {"sex": "f"}, "b.png": {"age": "61"}}
