from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from featureloop.audit.material import Lab, Party, party
from featureloop.audit.provided import provided
from featureloop.audit.run import audit
from featureloop.model.package import Package, seal_package
from featureloop.testing import tiny_package
from tests.audit.conftest import noisy_frames


@pytest.fixture
def package(tmp_path) -> Package:
    """One that says how far frames of different groups usually are apart."""
    made = tiny_package(tmp_path / "p")
    manifest = made.manifest
    return seal_package(made.path, replace(manifest, released=replace(manifest.released, usually_apart=30.0)))


def film(package: Package) -> Party:
    """Four patients; each frame is shown twice, one after the other."""
    frames = [f for frame in noisy_frames(12, groups=4) for f in (frame, replace(frame, index=100 + frame.index))]
    return party(frames, size=package.manifest.preprocessing.size)[0]


def test_of_a_frame_and_its_repetition_the_first_is_attacked(package):
    whole = film(package)
    some = provided(whole, package, near=0.001)
    assert (len(whole), len(some), some.near_duplicates) == (24, 12, 0.001)
    assert all(f.index < 100 for f in some.frames)
    assert set(some.groups) == set(whole.groups)
    assert some.thinned(8).near_duplicates == 0.001


def test_without_a_share_all_are_attacked(package):
    whole = film(package)
    same = provided(whole, package, near=0.0)
    assert len(same) == len(whole)
    assert same.near_duplicates == 0


def test_a_package_that_knows_no_distance_holds_nothing_back_as_on_the_device(tmp_path):
    package = tiny_package(tmp_path / "p")
    assert package.manifest.released.usually_apart == 0
    whole = film(package)
    assert len(provided(whole, package, near=0.9)) == len(whole)


def test_the_report_says_what_was_held_back(package, tmp_path):
    whole = film(package)
    mine, theirs = whole.only(np.flatnonzero(whole.groups < "g2")), whole.only(np.flatnonzero(whole.groups >= "g2"))
    found = audit(Lab(package, mine, provided(theirs, package, near=0.001)), tmp_path / "out", attacks=[])
    assert found.report.near_duplicates == 0.001
    assert found.report.images["victims"] == 6
