"""`featureloop model calibrate`: a threshold with a guarantee, and what is said where it doesn't hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from rig import featureloop

from featureloop.images.phantom import HOSPITAL_A, write_phantom_folder
from featureloop.model.package import load_package, sign_package
from featureloop.testing import tiny_package


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "ours"
    write_phantom_folder(folder, HOSPITAL_A, seed=1, sequences=60, size=(48, 48))
    return folder


def test_the_threshold_and_its_guarantee_stand_in_the_package(labelled: Path, tmp_path: Path) -> None:
    package, out = tiny_package(tmp_path / "P"), tmp_path / "report"
    done = featureloop(
        "model", "calibrate", package.path, "--images", labelled, "--risk", "0.99", "--out", out, "--json"
    )
    assert done.code == 0, done.said
    found = load_package(package.path)
    made = found.manifest.calibration.guarantee
    assert made is not None
    assert done.data["package"] == found.digest.hex() != package.digest.hex()
    assert (made.risk, made.confidence, made.frames, made.groups) == (0.99, 0.95, 60, 60)
    assert made.accepted > 0
    means = found.manifest.calibration.of_mean
    assert means is not None
    assert means.samples == 60
    assert found.manifest.calibration.threshold == made.threshold < 1
    assert "at most 0.99 with a confidence of 0.95" in (package.path / "docs" / "README.md").read_text()
    assert "at most 0.99 with a confidence of 0.95" in (out / "report.html").read_text()
    again = featureloop("model", "evaluate", package.path, "--images", labelled, "--json")
    assert again.data["guarantee"]["holds"] is True
    assert again.data["cautions"] == []


def test_frames_unlike_those_it_was_found_on_are_told(labelled: Path, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P")
    assert featureloop("model", "calibrate", package.path, "--images", labelled, "--risk", "0.99").code == 0
    other = tmp_path / "theirs"
    for name in ("images", "masks"):
        (other / name).mkdir(parents=True)
    with (other / "groups.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "group"))
        for path in sorted((labelled / "images").iterdir()):
            pixels = 255 - np.asarray(Image.open(path))
            Image.fromarray(pixels).save(other / "images" / path.name)
            (other / "masks" / path.name).write_bytes((labelled / "masks" / path.name).read_bytes())
            writer.writerow((f"images/{path.name}", path.stem))
    done = featureloop("model", "evaluate", package.path, "--images", other, "--json")
    assert done.data["guarantee"]["holds"] is False
    assert "here it doesn't hold" in done.said
    assert any("here it doesn't hold" in caution for caution in done.data["cautions"])


def test_where_nothing_can_be_guaranteed_every_result_is_doubtful(labelled: Path, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P")
    done = featureloop("model", "calibrate", package.path, "--images", labelled, "--risk", "0.001")
    assert done.code == 0, done.said
    assert "no threshold can be guaranteed with these 60 patients" in done.said
    assert load_package(package.path).manifest.calibration.threshold == 1


def test_a_signed_package_is_not_changed_without_its_key(labelled: Path, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P")
    sign_package(package, Ed25519PrivateKey.generate())
    done = featureloop("model", "calibrate", package.path, "--images", labelled)
    assert done.code != 0
    assert "give the signing key with --key" in done.said
    assert load_package(package.path).digest == package.digest


def test_another_score_is_fitted_on_other_patients_than_its_threshold(labelled: Path, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P")
    done = featureloop(
        "model", "calibrate", package.path, "--images", labelled, "--risk", "0.99", "--score", "lesion-score", "--json"
    )
    assert done.code == 0, done.said
    found = load_package(package.path).manifest.calibration
    assert (found.method, found.score, found.samples) == ("lesion-score", "lesion-score", 20)
    assert found.guarantee is not None
    assert (found.guarantee.frames, found.guarantee.groups) == (40, 40)
    assert "lesion-score" in (package.path / "docs" / "README.md").read_text()


def test_a_package_whose_frames_are_to_be_seen_otherwise_says_so_and_is_evaluated_so(
    labelled: Path, tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "P")
    options = ("--images", labelled, "--risk", "0.99", "--score", "agreement", "--json")
    done = featureloop("model", "calibrate", package.path, *options)
    assert done.code == 0, done.said
    found = load_package(package.path).manifest.calibration
    assert (found.method, found.score, found.samples) == ("agreement", "agreement", 20)
    assert found.of_mean is not None
    assert "agreement" in (package.path / "docs" / "README.md").read_text()
    again = featureloop("model", "evaluate", package.path, "--images", labelled, "--json")
    assert again.data["guarantee"]["holds"] is True


def test_a_score_of_another_task_is_told_before_anything_is_read(labelled: Path, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P")
    done = featureloop("model", "calibrate", package.path, "--images", labelled, "--score", "margin")
    assert done.code != 0
    assert "segmentation has no score 'margin'" in done.said
    assert load_package(package.path).digest == package.digest
