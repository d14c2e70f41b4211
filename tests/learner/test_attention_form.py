"""Classes from a set of vectors: one row of results for many vectors, from founding to the learner's bags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featureloop.core.errors import InputError, RecordError
from featureloop.core.types import Bag, Task
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import HOSPITAL_A, KINDS, phantom_frame
from featureloop.learner.bags import load_bags
from featureloop.learner.checks import check_declared
from featureloop.learner.founding import found_package
from featureloop.learner.founding_records import load_records
from featureloop.learner.held_back import calibrated_by
from featureloop.model.founding import recognizer_spec
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order

SIZE = 64
TINY = FoundingSettings(
    size=SIZE,
    channels=8,
    epochs=1,
    recognizer_epochs=1,
    augmentations=0,
    width=16,
    blocks=1,
    form="attention",
    score="agreement",
)


def test_a_package_recognizes_classes_from_a_set_and_its_records_are_sound(tmp_path: Path) -> None:
    for i in range(30):
        frame = phantom_frame(HOSPITAL_A, seed=i, size=(SIZE, SIZE))
        assert frame.truth is not None
        place = tmp_path / "images" / KINDS[frame.truth.label or 0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.pixels).save(place / f"{i}.png")
    folder = open_labelled(tmp_path / "images")
    founded = found_package(folder, folder.items, tmp_path / "P0", settings=TINY, replay_versions=0)
    manifest = founded.package.manifest
    assert (manifest.recognizer.form, manifest.released.anonymizer) == ("attention", "set")
    assert (manifest.calibration.method, manifest.calibration.score) == ("agreement", "agreement")

    runtime = Runtime(founded.package)
    vectors = runtime.extract(phantom_frame(HOSPITAL_A, seed=99, size=(SIZE, SIZE)).pixels)
    found = runtime.recognize(vectors)
    assert found.probabilities.shape == (1, len(folder.classes))
    shuffled = np.random.default_rng(1).permutation(len(vectors))
    again = runtime.recognize(np.ascontiguousarray(vectors[shuffled]))
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-5)

    symbols = codec.quantize(vectors, manifest.released)
    ordered, other = (canonical_order(Bag(s, found.targets())) for s in (symbols, symbols[shuffled]))
    np.testing.assert_array_equal(ordered.symbols, other.symbols)
    assert ordered.recognized.shape == (1, len(folder.classes))

    records = load_records(founded.records)
    for record in records:
        check_declared(record, manifest)
    bags = load_bags(iter([records]), manifest)
    assert bags.unreadable == 0
    assert bags.symbols[0].shape == (16, manifest.released.channels)
    assert bags.results[0].shape == (1, len(folder.classes))
    # Records are no images: until somebody calibrates with some, a learner's calibration is by another score.
    calibration = calibrated_by(bags, runtime)
    assert (calibration.method, calibration.score) == ("max-probability", "agreement")
    two = codec.encode_rows(np.repeat(found.targets(), 2, axis=0), manifest.released)
    with pytest.raises(RecordError, match="2 rows"):
        check_declared(replace(records[0], recognition=two), manifest)


def test_a_form_that_does_not_suit_the_task_is_refused() -> None:
    with pytest.raises(InputError, match="doesn't suit segmentation"):
        recognizer_spec(Task.SEGMENTATION, 1, TINY)
    assert recognizer_spec(Task.CLASSIFICATION, 3, replace(TINY, form=None)).form == "global"
