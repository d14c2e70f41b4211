"""The guarantee over many splits of real images' features, by a classifier that takes seconds; and another modality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featureloop.core.types import Float32, Frame, Recognition, Task
from featureloop.images.files import still_frames
from featureloop.learner.guarantee import NOTHING, drift, guarantee
from featureloop.learner.references import for_reference, founding_reference
from featureloop.model.manifest import uncalibrated
from featureloop.model.reference import outlying
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import calibrate, reliability
from featureloop.testing import tiny_package

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CHEST, CELLS = DATA / "chest" / "pneumoniamnist.npz", DATA / "blood-cells" / "tecom"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not CHEST.exists() or not CELLS.exists(), reason="needs PneumoniaMNIST and blood cells"),
]
Float64 = NDArray[np.float64]
RISK, CONFIDENCE, SPLITS, CHOSEN_ON = 0.1, 0.9, 200, 250


@dataclass(frozen=True, eq=False)
class Results:
    """Of X-rays that nothing learned from: reliabilities, losses, distances; and of blood cells what they have."""

    trust: Float64
    losses: Float64
    far: Float64
    other_trust: Float64
    other_far: Float64


def pictures(images: NDArray[np.uint8]) -> Iterator[Frame]:
    for i, pixels in enumerate(images):
        yield Frame(np.repeat(np.kron(pixels, np.ones((2, 2), np.uint8))[..., None], 3, axis=2), f"x{i}")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Random filters pooled, a logistic regression of them, and this project's reliability of it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    package = tiny_package(tmp_path_factory.mktemp("real") / "P", task="classification")
    runtime, released = Runtime(package), package.manifest.released
    chest = np.load(CHEST)
    images, labels = chest["train_images"][:2400], chest["train_labels"][:2400, 0]

    def features(frames: Iterator[Frame]) -> Float32:
        return np.concatenate([release_vectors(runtime.extract(f.pixels), released) for f in frames])

    x = features(pictures(images))
    cells = features(f for path in sorted(CELLS.rglob("*.jpg"))[:60] for f in still_frames(path, name=path.name))
    train, fit, test = slice(0, 1000), slice(1000, 1400), slice(1400, 2400)
    steps = [for_reference(v[None], released) for v in x[train]]
    reference = founding_reference(steps, [str(i) for i in range(len(steps))])
    assert reference is not None
    scale = StandardScaler().fit(x[train])
    model = LogisticRegression(C=0.1, max_iter=2000).fit(scale.transform(x[train]), labels[train])
    task, rules = Task.CLASSIFICATION, RULES[Task.CLASSIFICATION]
    truths = np.eye(2, dtype=np.uint8)[labels][:, None]

    def logits(values: Float32) -> list[Float32]:
        return [np.array([[-z / 2, z / 2]], np.float32) for z in model.decision_function(scale.transform(values))]

    def distances(values: Float32) -> Float64:
        return np.array([outlying(v[None], reference, released) for v in values])

    fitted = calibrate(
        logits(x[fit]), list(truths[fit]), task=task, risk=RISK, outlying=distances(x[fit]).tolist(),
        base=replace(uncalibrated(rules.method), reference=reference),
    )  # fmt: skip

    def recognized(values: Float32) -> list[Recognition]:
        each = zip(logits(values), distances(values), strict=True)
        return [replace(rules.recognition(z, fitted), outlying=float(d)) for z, d in each]

    own, other = recognized(x[test]), recognized(cells)
    losses = [1 - rules.quality(r, t) for r, t in zip(own, truths[test], strict=True)]
    trust, other_trust = (np.array([reliability(r, fitted) for r in part]) for part in (own, other))
    return Results(trust, np.array(losses), distances(x[test]), other_trust, distances(cells))


def test_over_200_splits_the_bound_fails_as_rarely_as_promised(results: Results) -> None:
    rng, failed, accepted = np.random.default_rng(1), 0, 0
    for _ in range(SPLITS):
        order = rng.permutation(len(results.losses))
        own, rest = order[:CHOSEN_ON], order[CHOSEN_ON:]
        made, _ = guarantee(
            results.trust[own], results.losses[own], [str(i) for i in own], risk=RISK, confidence=CONFIDENCE
        )
        accepted += made.threshold < NOTHING
        over = rest[results.trust[rest] >= made.threshold]
        failed += made.threshold < NOTHING and results.losses[over].mean() > RISK
    allowed = 1 - CONFIDENCE
    assert accepted > 0.5 * SPLITS
    assert failed / SPLITS <= allowed + 3 * np.sqrt(allowed * CONFIDENCE / SPLITS)


def test_halves_of_the_same_images_are_seldom_called_different_and_blood_cells_always(results: Results) -> None:
    rng, alarms = np.random.default_rng(2), 0
    names = [str(i) for i in range(len(results.losses))]
    for _ in range(SPLITS):
        own, rest = np.array_split(rng.permutation(len(names)), 2)
        made, _ = guarantee(
            results.trust[own], results.losses[own], [names[i] for i in own], risk=RISK, confidence=CONFIDENCE,
            outlying=results.far[own],
        )  # fmt: skip
        alarms += drift(made, results.trust[rest], [names[i] for i in rest], outlying=results.far[rest]) < 0.05
    assert alarms / SPLITS <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / SPLITS)
    cells = [str(i) for i in range(len(results.other_far))]
    assert drift(made, results.other_trust, cells, outlying=results.other_far) < 1e-6
