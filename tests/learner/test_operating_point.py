"""Steps as coarse as a stated loss allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.types import Frame
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import HOSPITAL_A, write_phantom_folder
from featureloop.learner.founding import found_package
from featureloop.learner.founding_records import load_records, package_rows
from featureloop.learner.operating_point import COARSER, coarser_form, operating_point
from featureloop.model.card import OPERATING_POINT, model_card
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.release import decoded

TINY = FoundingSettings(
    size=64,
    channels=8,
    bits_per_vector=66.0,
    epochs=2,
    recognizer_epochs=4,
    augmentations=0,
    width=16,
    blocks=1,
    release="set",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coarse") / "ours"
    write_phantom_folder(path, HOSPITAL_A, seed=1, sequences=15, frames_each=2, size=(64, 64))
    return path


def founded(folder: Path, out: Path, **settings: object) -> Package:
    labelled = open_labelled(folder)
    found_package(labelled, labelled.items, out, settings=replace(TINY, **settings), replay_versions=0)  # type: ignore[arg-type]
    return load_package(out)


@pytest.fixture(scope="module")
def package(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return founded(folder, tmp_path_factory.mktemp("fine") / "P0")


@pytest.fixture(scope="module")
def frames(folder: Path) -> list[Frame]:
    labelled = open_labelled(folder)
    return [f for f in labelled.frames(labelled.items) if isinstance(f, Frame)]


def lost(runtime: Runtime, frames: list[Frame], levels: tuple[int, ...]) -> float:
    """Quality lost by so many levels, worked out anew."""
    manifest = runtime.package.manifest
    form, rules, losses = replace(manifest.released, levels=levels), rules_of(manifest), []
    for frame in frames:
        x, truth = runtime.extract(frame.pixels), package_rows(frame, manifest)
        seen = codec.dequantize(codec.quantize(x, form), form)
        losses.append(rules.quality(runtime.recognize(x), truth) - rules.quality(runtime.recognize(seen), truth))
    return float(np.mean(losses))


def test_steps_get_wider_by_the_factor_and_keep_the_middle(package: Package) -> None:
    released = package.manifest.released
    assert coarser_form(released, 1e9).levels == (3,) * released.channels
    halved = coarser_form(replace(released, levels=(65,) * released.channels), 2)
    assert set(halved.levels) == {33}
    assert coarser_form(replace(released, levels=(2,) * released.channels), 1.5).levels == (2,) * released.channels


@pytest.mark.parametrize("max_loss", [0.0, 0.02, 0.9])
def test_the_coarsest_steps_within_the_loss_are_taken(package: Package, frames: list[Frame], max_loss: float) -> None:
    runtime = Runtime(package)
    told: list[int] = []
    point = operating_point(runtime, frames, max_loss=max_loss, progress=lambda _what, i, _n: told.append(i))
    losses = [lost(runtime, frames, coarser_form(package.manifest.released, k).levels) for k in COARSER[1:]]
    losses.insert(0, lost(runtime, frames, package.manifest.released.levels))
    within = next((i for i, loss in enumerate(losses) if loss > max_loss), len(COARSER))
    assert point.coarser == COARSER[max(0, within - 1)]
    assert point.loss == pytest.approx(losses[max(0, within - 1)], abs=1e-6)
    assert told == list(range(1, min(within, len(COARSER) - 1) + 2))


def test_a_package_founded_for_a_loss_says_it_and_its_records_are_smaller(
    package: Package, folder: Path, tmp_path: Path
) -> None:
    made = founded(folder, tmp_path / "P0", max_loss=0.3)
    manifest, chosen = made.manifest, made.manifest.reports[OPERATING_POINT]
    assert chosen["coarser"] > 1
    assert chosen["loss"] <= chosen["max_loss"] == 0.3
    assert max(manifest.released.levels) < max(package.manifest.released.levels)
    assert f"{chosen['coarser']:g} times as wide" in model_card(manifest)
    fine, coarse = (load_records(p.path.with_name("P0.founding.arrow")) for p in (package, made))
    assert sum(len(r.features) for r in coarse) < 0.8 * sum(len(r.features) for r in fine)
    bag = decoded(coarse[0].features, coarse[0].recognition or b"", None, manifest)
    assert (bag.symbols < np.array(manifest.released.levels)).all()


@pytest.mark.parametrize("loss", [-0.1, 1.0, float("nan")])
def test_a_loss_that_is_no_share_is_refused(loss: float) -> None:
    with pytest.raises(InputError, match="share from 0"):
        FoundingSettings(max_loss=loss)
