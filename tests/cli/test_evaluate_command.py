"""`featureloop model evaluate`: what the frames don't determine is said so, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import featureloop

from featureloop.images.phantom import HOSPITAL_A, write_phantom_folder
from featureloop.testing import tiny_package


@pytest.mark.parametrize(
    ("sequences", "said"),
    [(1, "All frames are of one group"), (3, "Intervals of fewer than 10 groups"), (30, None)],
)
def test_too_few_groups_are_told(sequences: int, said: str | None, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P")
    frames_each = 3 if sequences < 10 else 1
    write_phantom_folder(
        tmp_path / "in", HOSPITAL_A, seed=1, sequences=sequences, frames_each=frames_each, size=(48, 48)
    )
    done = featureloop("model", "evaluate", package.path, "--images", tmp_path / "in")
    assert done.code == 0, done.err
    assert "nan" not in done.out
    assert ("not determined" in done.out) == (sequences == 1)
    assert "groups" not in done.err if said is None else said in done.err
