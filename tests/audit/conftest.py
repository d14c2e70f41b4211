"""What the audit's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featureloop.audit.findings import Finding, Measure, Point
from featureloop.audit.material import Lab, party, split_party
from featureloop.core.types import Frame
from featureloop.sharing.privacy import RULES
from featureloop.testing import tiny_package

SHEET = "data:image/jpeg;base64,"


def noisy_frames(count: int, *, groups: int, size: int = 64) -> list[Frame]:
    """Frames of random pixels."""
    rng = np.random.default_rng(0)
    return [
        Frame(rng.integers(0, 256, (size, size, 3)).astype(np.uint8), f"{i}.png", group=f"g{i % groups}")
        for i in range(count)
    ]


def made_finding(attack: str, *, value: float = 0.008) -> Finding:
    """A finding with a figure of each kind that policies know of this attack."""
    names = [n for n, rule in RULES.items() if rule.attack == attack] or [f"{attack}.site_auc"]
    measures = [
        Measure(figure=n, arm=arm, by="nobody", value=v, low=0.8 * v, high=1.1 * v, groups=9, chance=0.001)
        for n in names
        for arm, v in (("release", value), ("shallow", 0.9), ("random", float("nan")))  # type: ignore[misc]
    ]
    headline = {n: next(m for m in measures if m.figure == n) for n in names}
    curve = (Point(images=10, value=value, low=0.0, high=0.1), Point(images=20, value=value, low=0.0, high=0.1))
    return Finding(attack=attack, headline=headline, measures=tuple(measures), controls=True, curve=curve, sheet=SHEET)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    package = tiny_package(tmp_path / "p")
    whole, _ = party(noisy_frames(16, groups=8), size=package.manifest.preprocessing.size)
    return Lab(package, *split_party(whole))
