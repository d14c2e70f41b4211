from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featureloop.audit.material import Lab, party
from featureloop.audit.members import TELLING, founding_pool, own_pool, records_beside
from featureloop.audit.membership import MEANS, MembershipSettings, above_all, attack_membership, found_at
from featureloop.audit.run import fingerprint
from featureloop.audit.shadows import Shadows, fitted, losses_of
from featureloop.core.errors import RecordError
from featureloop.learner.founding_records import founding_records, save_records
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Reference
from featureloop.model.reference import compared, shares_of
from tests.audit.scenes import frames_of, lab_of

QUICK = MembershipSettings(shadows=4, steps=20, candidates=24, own=12)


def able(lab: Lab) -> Lab:
    """The same with a recognizer that is large enough to remember."""
    spec = replace(lab.package.manifest.recognizer, width=64, blocks=2)
    return Lab(
        replace(lab.package, manifest=replace(lab.package.manifest, recognizer=spec)),
        lab.attacker,
        lab.victims,
        seed=1,
    )


def founded(lab: Lab, *, versions: int = 1, held: int = 20) -> None:
    frames = frames_of(range(200, 220), each=1), frames_of(range(300, 300 + held), each=1)
    records = founding_records(
        lab.package, *frames, settings=FoundingSettings(), versions=versions, progress=lambda *_: None
    )
    save_records(records, lab.package.path.with_name("p.founding.arrow"))


def test_the_package_s_own_recognizer_is_attacked_where_its_founding_records_are(tmp_path):
    lab = able(lab_of(tmp_path))
    founded(lab)
    found = attack_membership(lab, QUICK)
    area = {(m.arm, m.by): m for m in found.measures if m.figure == "AUC"}
    # The tiny package's recognizer is random numbers: it never saw a member.
    assert area["release", "likelihood ratio"].low < 0.5 < area["release", "likelihood ratio"].high
    assert area["planted", "learned by heart"].low > area["random", "frames that it never saw"].high
    assert found.controls
    assert found.headline["membership.tpr"].chance == 1e-3
    assert any("20 outsiders" in n for n in found.notes)


def test_a_package_that_keeps_founding_frames_instead_of_means_of_them_gives_them_away(tmp_path):
    plain = able(lab_of(tmp_path))
    founded(plain)
    manifest = plain.package.manifest
    assert manifest.calibration.reference is None
    assert not any(m.by == MEANS for m in attack_membership(plain, QUICK).measures)
    pool = founding_pool(
        plain.package,
        plain.package.path.with_name("p.founding.arrow"),
        members=1000,
        others=1000,
        rng=np.random.default_rng(1),
    )
    rows = [compared(v, manifest.released) for v in pool.values]
    kinds = np.unique(np.concatenate(rows), axis=0)[::7]
    usual = [shares_of(r, kinds) for r, m in zip(rows, pool.members, strict=True) if m]
    kept = Reference(tuple(map(tuple, kinds)), tuple(map(tuple, usual)), (1.0,) * len(kinds[0]), 1, 1)
    telling = replace(manifest, calibration=replace(manifest.calibration, reference=kept))
    lab = Lab(replace(plain.package, manifest=telling), plain.attacker, plain.victims, seed=1)
    area = next(m for m in attack_membership(lab, QUICK).measures if m.by == MEANS and m.figure == "AUC")
    assert area.value == 1


def test_all_outsiders_that_are_given_are_asked_about_besides_the_held_records(tmp_path):
    plain = able(lab_of(tmp_path))
    founded(plain, held=40)
    unseen = party(frames_of(range(400, 430), each=1), size=plain.size)[0]
    lab = Lab(plain.package, plain.attacker, plain.victims, outsiders=unseen)
    found = attack_membership(lab, QUICK)
    # All 40 founding records, where 24 are asked about otherwise, 24 held ones and 30 that are given.
    assert "39 steps of 16 bags each, from halves of 94 candidates" in found.budget  # 20 steps are for 48.
    assert any("54 held or given ones are not" in n for n in found.notes)
    above = next(m for m in found.measures if m.figure == "TPR above every outsider" and m.by == "loss alone")
    assert above.chance == pytest.approx(1 / 55)
    assert fingerprint(lab) != fingerprint(plain)
    few = Lab(plain.package, plain.attacker, plain.victims, outsiders=unseen.only(np.arange(3)))
    found = attack_membership(few, replace(QUICK, shadows=2, steps=2, candidates=2))
    # Two held and three given ones, and three times as many of the 20 members.
    assert any("15 founding records are its members, 5 held" in n for n in found.notes)


def test_the_attacker_s_own_frames_and_given_outsiders_are_none_of_the_founding_s_frames(tmp_path):
    plain = able(lab_of(tmp_path))
    founded(plain)
    again = party(frames_of([*range(205, 209), *range(500, 508)], each=1), size=plain.size)[0]
    # Three of the outsiders are held records.
    outsiders = party(frames_of([*range(300, 303), *range(600, 604)], each=1), size=plain.size)[0]
    lab = Lab(plain.package, again, plain.victims, seed=1, outsiders=outsiders)
    found = attack_membership(lab, replace(QUICK, candidates=100))
    assert "from halves of 64 candidates and 8 frames of its own" in found.budget
    own, few = own_pool(lab, 100), own_pool(lab, 100).shortened(TELLING - 1)
    assert len(own.unlike(own)) == 0
    assert len(few.unlike(few)) == len(few)


def test_without_founding_records_recognizers_of_the_same_training_are_attacked(tmp_path):
    found = attack_membership(able(lab_of(tmp_path, attacker=20)), QUICK)
    assert found.headline["membership.tpr"].by == "shadows in turn"
    assert any("No founding records" in n for n in found.notes)


def test_of_a_pooled_form_as_well(tmp_path):
    lab = lab_of(tmp_path, task="classification", attacker=20)
    assert records_beside(lab.package) is None
    found = attack_membership(lab, MembershipSettings(shadows=2, steps=5, candidates=4, own=4))
    assert 0 <= found.headline["membership.tpr"].value <= 1


def test_wrong_labels_of_pooled_vectors_are_learned_by_heart_only_without_the_noise_of_founding(tmp_path):
    lab = able(lab_of(tmp_path, task="classification", attacker=20))
    pool = own_pool(lab, 20)
    labels = pool.targets.shape[2]
    drawn = np.random.default_rng(1).integers(0, labels, len(pool))
    wrong = replace(pool, targets=np.eye(labels, dtype=np.uint8)[drawn][:, None])
    heart, noisy = (
        losses_of(lab, fitted(lab, wrong, steps=600, seed=1, name="control", average=0.5, noise=noise), wrong).mean()
        for noise in (0.0, 1.0)
    )
    assert heart < 0.1
    assert heart < noisy / 3


def test_members_are_the_frames_as_they_are_and_outsiders_the_held_ones(tmp_path):
    lab = lab_of(tmp_path)
    manifest = lab.package.manifest
    package = replace(
        lab.package, manifest=replace(manifest, lineage=replace(manifest.lineage, records={"founding": 20}))
    )
    founded(replace_package(lab, package), versions=2)
    path = records_beside(package)
    assert path is not None
    few = founding_pool(package, path, members=5, others=3, rng=np.random.default_rng(1))
    assert few.members.tolist() == [True] * 5 + [False] * 3
    pool = founding_pool(package, path, members=1000, others=1000, rng=np.random.default_rng(1))
    assert pool.members.sum() == 20
    assert (~pool.members).sum() == 20
    assert len(set(pool.groups)) == 40
    first = lab.release(frames_of(range(200, 201), each=1))[0]
    assert (pool.values[0] == first.values).all()


def replace_package(lab: Lab, package) -> Lab:
    return Lab(package, lab.attacker, lab.victims, seed=1)


def test_records_of_another_package_are_refused(tmp_path):
    lab = lab_of(tmp_path)
    founded(lab, held=0)
    path, rng = records_beside(lab.package), np.random.default_rng(1)
    with pytest.raises(RecordError, match="0 that were held out"):
        founding_pool(lab.package, path, members=5, others=5, rng=rng)
    (tmp_path / "p.founding.arrow").write_bytes(b"x")
    with pytest.raises(RecordError, match="holds no records"):
        founding_pool(lab.package, path, members=5, others=5, rng=rng)


def test_own_frames_have_their_truth_as_targets(tmp_path):
    lab = lab_of(tmp_path)
    pool = own_pool(lab, 100)
    assert pool.targets.shape == (30, 16, 16)
    masks = np.array([f.truth.mask.mean() for f in lab.attacker.frames])
    assert np.corrcoef(pool.targets.mean((1, 2)), masks)[0, 1] > 0.9


def test_a_recognizer_that_is_surer_of_what_it_knew_is_found_out():
    rng = np.random.default_rng(0)
    hard, halves = rng.normal(0, 2, 400), rng.random((4, 400)) < 0.5
    knew = np.concatenate([halves, ~halves])
    confidence = hard + 1.5 * knew + rng.normal(0, 0.3, knew.shape)
    members = rng.random(400) < 0.5
    said = hard + 1.5 * members + rng.normal(0, 0.3, 400)
    shadows, everyone = Shadows(confidence, knew), np.arange(400)
    for scores in (shadows.ratio(said), shadows.excess(said)):
        assert found_at(scores, members)(everyone) > 0.5
    # What is hard and what is easy differs more than what is known: the loss alone tells little.
    assert found_at(said, members)(everyone) < 0.1
    assert found_at(shadows.ratio(hard), members)(everyone) < 0.05


@pytest.mark.parametrize("outsiders", [80, 4000])
def test_where_nothing_leaks_few_outsiders_do_not_make_it_look_so(outsiders):
    found, over = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores, members = rng.normal(size=400 + outsiders), np.arange(400 + outsiders) < 400
        every = np.arange(len(scores))
        found.append(found_at(scores, members)(every))
        over.append(above_all(scores, members)(every))
    assert np.mean(found) < 3e-3
    if outsiders == 80:
        assert np.mean(over) > 8e-3


def test_a_guessed_threshold_is_never_below_an_outsider():
    """With a heavy tail the normal guess lets outsiders through, so that what it tells is told of anybody."""
    rng = np.random.default_rng(0)
    scores, members = rng.standard_t(2, 1_200), np.arange(1_200) < 600
    everyone = np.arange(1_200)
    assert found_at(scores, members)(everyone) == (scores[members] > scores[~members].max()).mean() < 0.01
