"""What a package keeps of its founding frames' features, and how it tells other frames by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from featureloop.core.errors import PackageError
from featureloop.core.types import Float32
from featureloop.learner.references import (
    KINDS,
    LEAST_GROUPS,
    USUAL,
    crossed_distances,
    for_reference,
    founding_reference,
)
from featureloop.model.manifest import Manifest, Reference, ReleasedForm
from featureloop.model.reference import outlying
from featureloop.sharing import codec
from featureloop.sharing.reliability import familiar_range
from featureloop.testing import tiny_package


def form(anonymizer: str, *, channels: int = 3) -> ReleasedForm:
    table = (4096 - 10 * 372, *((372,) * 10))
    return ReleasedForm(
        anonymizer, channels, (-1.0,) * channels, (1.0,) * channels, (11,) * channels, (table,) * channels
    )


def tissue(rng: np.random.Generator) -> Float32:
    """Rows of three sorts, as many of each as it happens."""
    sorts = np.array([[-0.6, 0.0, 0.2], [0.5, 0.4, -0.2], [0.1, -0.6, 0.6]])
    which = rng.choice(3, size=200, p=rng.dirichlet([6, 4, 2]))
    return np.clip(sorts[which] + rng.normal(0, 0.12, (200, 3)), -1, 1).astype(np.float32)


def foreign(rng: np.random.Generator) -> Float32:
    """Rows whose channels are distributed as those of tissue, but do not go together as they do there."""
    return np.stack([rng.permutation(column) for column in tissue(rng).T], axis=1).astype(np.float32)


def pooled(rng: np.random.Generator, shift: float = 0.0) -> Float32:
    return np.clip(rng.normal(shift, 0.15, (1, 12)), -1, 1).astype(np.float32)


SET = form("set")


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(1)
    frames = [for_reference(tissue(rng), SET) for _ in range(120)]
    found = founding_reference(frames, [f"p{i // 2}" for i in range(120)])
    assert found is not None
    return found


def test_founding_frames_tell_how_far_a_usual_one_may_be_where_few_are_held(reference: Reference) -> None:
    """Hardly more than one in ten new frames is doubted, though only 12 were held, and foreign ones are strange."""
    rng = np.random.default_rng(1)
    frames = [for_reference(tissue(rng), SET) for _ in range(120)]
    crossed = crossed_distances(frames, [f"p{i // 2}" for i in range(120)])
    assert len(crossed) == 120
    few, new = ([outlying(tissue(rng), reference, SET) for _ in range(n)] for n in (12, 400))
    first, last = familiar_range([*few, *crossed])
    assert np.mean(np.array(new) <= first) > 0.85
    assert np.mean(np.array(new) < last) > 0.97
    assert np.mean([outlying(foreign(rng), reference, SET) > last for _ in range(100)]) > 0.9


def test_a_handful_of_patients_tells_nothing_of_how_far_a_usual_frame_may_be() -> None:
    rng = np.random.default_rng(1)
    frames = [for_reference(tissue(rng), SET) for _ in range(20)]
    assert crossed_distances(frames, [f"p{i % LEAST_GROUPS}" for i in range(20)]) == []


def test_foreign_frames_are_farther_than_new_ones_of_the_same_sort(reference: Reference) -> None:
    rng = np.random.default_rng(2)
    same = [outlying(tissue(rng), reference, SET) for _ in range(60)]
    other = [outlying(foreign(rng), reference, SET) for _ in range(60)]
    flat = [outlying(np.full((200, 3), x, np.float32), reference, SET) for x in (-1.0, 0.0, 1.0)]
    assert roc_auc_score([0] * 60 + [1] * 60, same + other) > 0.95
    assert min(flat) > max(same)
    assert all(0 <= x <= 1 for x in (*same, *other, *flat))


def test_order_and_the_error_of_quantization_change_nothing(reference: Reference) -> None:
    vectors = tissue(np.random.default_rng(3))
    far = outlying(vectors, reference, SET)
    decoded = (np.rint((vectors + 1) * 5) / 5 - 1).astype(np.float32)
    assert outlying(decoded[::-1], reference, SET) == far


def test_what_is_kept_are_means_over_several_patients(reference: Reference) -> None:
    assert len(reference.usual) <= USUAL
    assert len(reference.kinds) <= KINDS
    assert reference.groups >= LEAST_GROUPS
    assert reference.frames >= reference.groups
    np.testing.assert_allclose(np.sum(reference.usual, axis=1), 1, atol=0.01)


def test_one_strange_patient_leaves_no_mean_of_its_own() -> None:
    rng = np.random.default_rng(4)
    frames = [for_reference(tissue(rng), SET) for _ in range(100)]
    odd = [for_reference(np.full((200, 3), 1.0, np.float32), SET) for _ in range(10)]
    found = founding_reference([*frames, *odd], [*(f"p{i}" for i in range(100)), *["odd"] * 10])
    assert found is not None
    assert outlying(np.full((200, 3), 1.0, np.float32), found, SET) > 0.8
    assert np.array(found.kinds).max() < (np.ones(3) * 10 / np.array(found.scale)).max()


def test_pooled_vectors_are_compared_by_their_deviations() -> None:
    rng, one = np.random.default_rng(5), form("pool", channels=12)
    found = founding_reference([for_reference(pooled(rng), one) for _ in range(90)], [str(i) for i in range(90)])
    assert found is not None
    assert not found.kinds
    same, other = ([outlying(pooled(rng, s), found, one) for _ in range(50)] for s in (0.0, 0.3))
    assert roc_auc_score([0] * 50 + [1] * 50, same + other) > 0.95


def test_along_directions_other_frames_are_told_by_what_does_not_leave_too() -> None:
    """Levels so few that every frame's symbols are the same: what is compared is not what leaves."""
    rng, one = np.random.default_rng(5), form("pool", channels=12)
    directions = tuple(tuple(row) for row in np.linalg.qr(rng.normal(size=(12, 12)))[0].tolist())
    one = replace(one, levels=(2,) * 12, low=(-100.0,) * 12, high=(1.0,) * 12, directions=directions)
    found = founding_reference([for_reference(pooled(rng), one) for _ in range(90)], [str(i) for i in range(90)])
    assert found is not None
    assert len(np.unique([codec.quantize(pooled(rng, s), one) for s in (0.0, 0.3) for _ in range(50)], axis=0)) == 1
    same, other = ([outlying(pooled(rng, s), found, one) for _ in range(50)] for s in (0.0, 0.3))
    assert roc_auc_score([0] * 50 + [1] * 50, same + other) > 0.95


@pytest.mark.parametrize("count", [8, 40])
def test_of_few_frames_directions_in_which_they_hardly_differ_do_not_make_every_other_frame_strange(count: int) -> None:
    rng, one = (
        np.random.default_rng(6),
        replace(form("pool", channels=40), directions=tuple(map(tuple, np.eye(40).tolist()))),
    )
    spread = 0.2 * 0.5 ** np.arange(40)

    def drawn(middle: float = 0.0) -> Float32:
        return (middle + spread * rng.normal(size=(1, 40))).astype(np.float32)

    found = founding_reference([for_reference(drawn(), one) for _ in range(count)], [str(i) for i in range(count)])
    assert found is not None
    same, other = ([outlying(drawn(m), found, one) for _ in range(50)] for m in (0.0, 0.5))
    assert max(same) < min(other)


def test_of_too_few_patients_nothing_is_kept() -> None:
    rng = np.random.default_rng(6)
    frames = [for_reference(tissue(rng), SET) for _ in range(40)]
    assert founding_reference(frames, [f"p{i % 4}" for i in range(40)]) is None


def with_reference(manifest: Manifest, **changed: Any) -> Manifest:
    channels = manifest.released.channels
    kinds = ((0.0,) * channels, (1.0,) * channels)
    known = Reference(kinds, ((0.5, 0.5),), (1.0,) * channels, 10, 8)
    calibration = replace(manifest.calibration, reference=replace(known, **changed), familiar=(0.2, 0.4))
    return replace(manifest, calibration=calibration)


def test_a_package_carries_it_and_one_without_it_is_written_as_before(tmp_path: Path) -> None:
    manifest = tiny_package(tmp_path / "P").manifest
    assert b"familiar" not in manifest.to_json()
    assert b"score" not in manifest.to_json()
    whole = with_reference(manifest)
    assert Manifest.from_json(whole.to_json()) == whole


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"usual": ()}, "usual frames"),
        ({"usual": ((0.5, 0.5),) * 65}, "usual frames"),
        ({"kinds": ()}, "kinds are of position vectors"),
        ({"kinds": ((0.0,), (1.0,))}, "kind of vectors has"),
        ({"usual": ((0.5, 0.5, 0.0),)}, "usual frame 2"),
        ({"usual": ((-0.5, 0.5),)}, "shares of rows"),
        ({"scale": (1.0,)}, "has a deviation"),
        ({"kinds": ((1e9,) * 8,) * 2}, "deviations or shares"),
        ({"groups": 1}, "over several frames"),
    ],
)
def test_a_reference_that_is_none_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    whole = with_reference(tiny_package(tmp_path / "P").manifest, **changed)
    with pytest.raises(PackageError, match=said):
        Manifest.from_json(whole.to_json())
