"""The founding features as records, so that later trainings can replay them without the images."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from featureloop.core.errors import RecordError
from featureloop.core.ports import Progress
from featureloop.core.types import Bag, Float32, Frame, Task, UInt8
from featureloop.model.augment import augment, augmentation_for
from featureloop.model.early_cache import square_truth
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package, write_atomically
from featureloop.model.preprocess import resize_frame
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.codec import codec_of
from featureloop.sharing.mixing import Mixer
from featureloop.sharing.record import SCHEMA, Record, from_table, quarter_of, to_table
from featureloop.sharing.release import coded, joined, part_of, replayed
from featureloop.sharing.view import positions_in_view

FOUNDING_SITE = "founding"
HELD_SITE = "founding-held"
"""Founding frames that no network learned from: calibration and gate use them."""


def founding_records_path(package: Path) -> Path:
    """Where a founding package's records are: beside it, never in it."""
    return package.with_name(f"{package.name}.founding.arrow")


def save_records(records: Sequence[Record], path: Path) -> None:
    """Write records as an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(to_table(records))
    write_atomically(path, bytes(sink.getvalue()))


def load_records(path: Path) -> list[Record]:
    """Read records from an Arrow file.

    Raises
    ------
    RecordError
        The file is missing or damaged.
    """
    try:
        with pa.ipc.open_stream(pa.memory_map(str(path))) as reader:
            return from_table(reader.read_all())
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"'{path}' holds no records: {error}") from error


def package_rows(frame: Frame, manifest: Manifest) -> UInt8:
    """The truth of a frame in the rows that a package's recognizer gives."""
    task = Task(manifest.task)
    return true_rows(frame, task=task, labels=len(manifest.labels), grid=manifest.features.grid)


def founding_records(
    package: Package,
    train: Sequence[Frame],
    held: Sequence[Frame],
    *,
    settings: FoundingSettings,
    versions: int,
    progress: Progress,
) -> list[Record]:
    """The founding features in the form of records (`replayed`), with the truth as their result.

    Where records mix frames, those for which there are too few other groups left are in no record.
    """
    package = replace(package, manifest=replayed(package.manifest))
    runtime, by = Runtime(package), augmentation_for(train, settings.augmentation)
    rng = np.random.default_rng(settings.seed)
    key = secrets.token_bytes(32)
    records: list[Record] = []

    def keep(frames: Sequence[Frame], site: str, versions: int, what: str) -> None:
        mixer: Mixer[Bag] = Mixer(package.manifest.released.form.mix)
        for i, frame in enumerate(frames):
            group = _pseudonym(key, frame)
            for k, part in enumerate(_parts(runtime, frame, versions, rng, by=by, secret=key)):
                together = mixer.put((i, k), part, group=group)
                if together:
                    records.append(_record(package, site, group, list(together.values())))
                mixer.drop(together)
            progress(what, i + 1, len(frames))

    keep(train, FOUNDING_SITE, versions, "founding features")
    keep(held, HELD_SITE, 0, "held features")
    return records


def _pseudonym(key: bytes, frame: Frame) -> bytes:
    """A group's pseudonym under a key that is forgotten when founding ends."""
    return hashlib.blake2b((frame.group or frame.name).encode(), key=key, digest_size=16).digest()


def true_part(
    runtime: Runtime,
    frame: Frame,
    *,
    secret: bytes,
    manifest: Manifest | None = None,
    vectors: Float32 | None = None,
) -> Bag:
    """What of a frame leaves under a package of one task, with the truth as its rows.

    Parameters
    ----------
    manifest
        In whose released form; None takes the package's.
    vectors
        What recognition works on, where it is known already.
    """
    manifest = manifest or runtime.package.manifest
    grid = manifest.features.grid
    if vectors is None:
        vectors = release_vectors(runtime.extract(frame.pixels), manifest.released)
    return part_of(
        vectors,
        package_rows(frame, manifest),
        released=manifest.released,
        grid=grid,
        view=positions_in_view(frame.pixels, grid) if manifest.released.form.subset else None,
        secret=secret,
    )


def _parts(
    runtime: Runtime, frame: Frame, versions: int, rng: np.random.Generator, *, by: str, secret: bytes
) -> Iterable[Bag]:
    """What is kept of a frame, as it is and augmented."""
    manifest = runtime.package.manifest
    yield true_part(runtime, frame, secret=secret)
    size = manifest.preprocessing.size
    small, truth = resize_frame(frame.pixels, size), square_truth(frame, size)
    for _ in range(versions):
        pixels, moved = augment(small, truth, rng, by=by)
        yield true_part(runtime, replace(frame, pixels=pixels, truth=moved), secret=secret)


def _record(package: Package, site: str, group: bytes, parts: Sequence[Bag]) -> Record:
    manifest = package.manifest
    bag = joined(parts, released=manifest.released, grid=manifest.features.grid)
    payload = coded(bag, manifest.released)
    return Record(
        site=site,
        device=site,
        package=package.digest,
        extractor=package.extractor_digest,
        task=manifest.task,
        anonymizer=manifest.released.anonymizer,
        vectors=len(bag.symbols),
        channels=manifest.released.channels,
        codec=codec_of(manifest.released),
        features=payload.features,
        recognition=payload.recognition,
        reliability=None,
        reliability_method=None,
        changed=None,
        changed_by=None,
        changed_when=None,
        group=group if len(parts) == 1 else None,
        period=quarter_of(datetime.now(UTC).date()),
    )
