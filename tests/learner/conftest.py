"""A learner in a temporary directory, and records that its live package really declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featureloop.core.types import Bag
from featureloop.learner.auth import Enrolled
from featureloop.learner.service import Learner, open_learner
from featureloop.model.package import Package
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.record import Record
from featureloop.sharing.release import decoded
from featureloop.testing import FakeClock, make_record, tiny_package

MakeRecord = Callable[..., Record]


@pytest.fixture(scope="session")
def founding(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package of 16 positions, 8 channels."""
    return tiny_package(tmp_path_factory.mktemp("packages") / "founding")


@pytest.fixture(scope="session")
def successor(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Another package in the founding one's line."""
    return tiny_package(tmp_path_factory.mktemp("packages") / "successor", recognizer_seed=1)


@pytest.fixture(scope="session")
def third(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Yet another package in the founding one's line."""
    return tiny_package(tmp_path_factory.mktemp("packages") / "third", recognizer_seed=2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def learner(tmp_path: Path, founding: Package, clock: FakeClock) -> Iterator[Learner]:
    """A learner whose live package is the founding one."""
    opened = open_learner(tmp_path / "learner", clock=clock)
    opened.registry.add(founding, metrics={})
    opened.registry.promote(founding.digest.hex())
    yield opened
    opened.control.close()


@pytest.fixture
def device(learner: Learner) -> Enrolled:
    """A device of site `clinic-a`."""
    return learner.auth.enroll(learner.auth.invite("clinic-a"))


def coded(under: Package, i: int, *, site: str, device: str, **overrides: Any) -> Record:
    """Record number `i` as a device makes it: canonical order, the package's codec."""
    manifest = under.manifest
    released, rng = manifest.released, np.random.default_rng(i)
    n = 1 if released.anonymizer == "pool" else manifest.features.grid**2
    symbols = rng.integers(0, released.levels[0], (n, released.channels)).astype(np.uint8)
    rows = rng.integers(0, 2, (n, manifest.recognizer.outputs)).astype(np.uint8)
    bag = canonical_order(Bag(symbols, rows))
    values: dict[str, Any] = {
        "site": site,
        "device": device,
        "package": under.digest,
        "extractor": under.extractor_digest,
        "task": manifest.task,
        "anonymizer": released.anonymizer,
        "vectors": n,
        "channels": released.channels,
        "codec": codec.codec_of(released),
        "features": codec.encode_features(bag.symbols, released),
        "recognition": codec.encode_rows(bag.recognized, released, symbols=bag.symbols),
        "reliability_method": manifest.calibration.method,
    }
    return make_record(i, **(values | overrides))


def changed_to(under: Package, record: Record, value: int) -> bytes:
    """What a record's result is changed to, as a device codes it: every flag of this value."""
    bag = decoded(record.features, record.recognition or b"", None, under.manifest)
    rows = np.full_like(bag.recognized, value)
    return codec.encode_rows(rows, under.manifest.released, symbols=bag.symbols, before=bag.recognized)


@pytest.fixture
def make(founding: Package, device: Enrolled) -> MakeRecord:
    """Makes record number `i` of the enrolled device under the founding package."""

    def one(i: int, *, under: Package = founding, **overrides: Any) -> Record:
        return coded(under, i, **({"site": device.site, "device": device.device} | overrides))

    return one
