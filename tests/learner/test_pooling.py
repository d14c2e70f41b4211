"""What a pooled vector is made of is a choice: from founding to the learner's training, all follow it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import HOSPITAL_A, KINDS, phantom_frame
from featureloop.learner.bags import load_bags
from featureloop.learner.checks import check_declared
from featureloop.learner.founding import found_package
from featureloop.learner.founding_records import load_records
from featureloop.learner.training import TrainSettings, train_recognizer
from featureloop.model.card import model_card
from featureloop.model.fit import FitSettings
from featureloop.model.founding import recognizer_spec
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import WEIGHTS
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors

SIZE = 64
POOLING = ("generalized-mean", "mean", "deviation")
TINY = FoundingSettings(
    size=SIZE, channels=4, epochs=1, recognizer_epochs=1, augmentations=0, width=16, pooling=POOLING
)


def test_a_package_of_a_chosen_pooling_recognizes_shares_and_is_trained_on(tmp_path: Path) -> None:
    for i in range(30):
        frame = phantom_frame(HOSPITAL_A, seed=i, size=(SIZE, SIZE))
        assert frame.truth is not None
        place = tmp_path / "images" / KINDS[frame.truth.label or 0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.pixels).save(place / f"{i}.png")
    folder = open_labelled(tmp_path / "images")
    founded = found_package(folder, folder.items, tmp_path / "P0", settings=TINY, replay_versions=0)
    package = founded.package
    manifest, released = package.manifest, package.manifest.released
    assert released.pooling == POOLING
    assert released.channels == 3 * manifest.features.channels
    assert len(released.directions) == released.channels
    card = model_card(manifest)
    assert "`pool` (generalized-mean, mean, deviation)" in card
    assert "along the directions that recognition feels" in card

    runtime = Runtime(package)
    vectors = release_vectors(runtime.extract(phantom_frame(HOSPITAL_A, seed=99, size=(SIZE, SIZE)).pixels), released)
    recognizer = build_recognizer(manifest.recognizer, channels=released.channels).eval()
    recognizer.load_state_dict(load_file(package.file(WEIGHTS)))
    with torch.no_grad():
        expected = recognizer(torch.from_numpy(vectors)[None])[0].numpy()
    np.testing.assert_allclose(runtime.logits(vectors), expected, atol=1e-4)

    records = load_records(founded.records)
    for record in records:
        check_declared(record, manifest)
    bags = load_bags(iter([records]), manifest)
    assert bags.symbols[0].shape == (1, released.channels)
    settings = TrainSettings(fit=FitSettings(epochs=1, batch=4), interpolation=0.5)
    trained, _ = train_recognizer(package, bags, ~bags.held, settings=settings)
    assert trained.state_dict()["mean"].shape == (released.channels,)


def test_a_pooling_for_vectors_that_are_not_pooled_is_refused() -> None:
    for task, form in ((Task.SEGMENTATION, None), (Task.CLASSIFICATION, "attention")):
        with pytest.raises(InputError, match="leave the pooling out"):
            recognizer_spec(task, 3, replace(TINY, form=form))
