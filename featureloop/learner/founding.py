"""Founding: a first package from the images that a centre already holds.

Trains the networks, exports them, calibrates on held-out groups, counts the
codec's tables, writes the package, and keeps the founding features as records,
so that later trainings can replay them without the images.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from featureloop.core.errors import InputError, RecordError, StorageError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bag, Float32, Frame, Skipped, Task, Truth, UInt8
from featureloop.images.labelled import LabelledFolder, LabelledItem, split
from featureloop.model.augment import augment
from featureloop.model.card import model_card
from featureloop.model.export import export_onnx
from featureloop.model.founding import FoundingSettings, Networks, frame_targets, square_mask, train_networks
from featureloop.model.manifest import Calibration, Lineage, Manifest, ReleasedForm
from featureloop.model.package import (
    CARD,
    EXTRACTOR,
    METADATA,
    RECOGNIZER,
    WEIGHTS,
    Package,
    monai_metadata,
    seal_package,
    write_atomically,
)
from featureloop.model.preprocess import resize_frame
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order, release_vectors
from featureloop.sharing.record import SCHEMA, Record, from_table, quarter_of, to_table
from featureloop.sharing.reliability import METHODS, calibrate

FOUNDING_SITE = "founding"
HELD_SITE = "founding-held"
"""Founding frames that no network learned from: calibration and gate use them."""
CALIBRATION_SHARE = 0.1
POOL_LEVELS = 255
RISK = {Task.SEGMENTATION: 0.12, Task.CLASSIFICATION: 0.05}
"""Mean loss (1 - Dice, or the error) that results above the threshold may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Founded:
    """A founding package, its founding records' file, and the frames that could not be used."""

    package: Package
    records: Path
    skipped: tuple[Skipped, ...]
    frames: int


def founding_records_path(package: Path) -> Path:
    """Where a founding package's records are: beside it, never in it."""
    return package.with_name(f"{package.name}.founding.arrow")


def found_package(
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    out: Path,
    *,
    settings: FoundingSettings,
    replay_versions: int = 1,
    risk: float | None = None,
    progress: Progress = silent,
) -> Founded:
    """Train a founding package on the labelled items, and write it to the new directory `out`.

    Parameters
    ----------
    replay_versions
        Augmented versions of every founding frame that are kept for replay, besides the original.
    risk
        Mean loss that results above the threshold may have; None takes `RISK` of the task.

    Raises
    ------
    InputError
        `out` exists, or too few frames can be used.
    StorageError
        The package can't be written.
    """
    if out.exists():
        raise InputError(f"'{out}' exists already; choose another --out or remove it")
    train_items, held_items = split(items, hold_out=CALIBRATION_SHARE, seed=settings.seed)
    train, bad_train = _read(folder, train_items, progress)
    held, bad_held = _read(folder, held_items, progress)
    if len(train) < 8 or not held:
        raise InputError(
            f"{len(train)} frames to learn from and {len(held)} to calibrate on are too few; give at least 20"
        )
    networks = train_networks(
        train, task=folder.task, classes=len(folder.classes), settings=settings, progress=progress
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work_name:
            work = Path(work_name) / "package"
            _write_networks(networks, work)
            package = _describe(networks, work, folder=folder, train=train, held=held, risk=risk, progress=progress)
            work.rename(out)
    except OSError as error:
        raise StorageError(f"the package can't be written to '{out}': {error}") from error
    package = Package(out, package.manifest, package.digest)
    records = _founding_records(package, train, held, settings=settings, versions=replay_versions, progress=progress)
    path = founding_records_path(out)
    save_records(records, path)
    return Founded(package, path, (*bad_train, *bad_held), len(train) + len(held))


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


def _read(
    folder: LabelledFolder, items: Sequence[LabelledItem], progress: Progress
) -> tuple[list[Frame], list[Skipped]]:
    frames: list[Frame] = []
    skipped: list[Skipped] = []
    for i, item in enumerate(folder.frames(items)):
        (skipped if isinstance(item, Skipped) else frames).append(item)  # type: ignore[arg-type]  # one list per kind
        progress("reading images", i + 1, len(items))
    return frames, skipped


def _write_networks(networks: Networks, work: Path) -> None:
    size, channels = networks.preprocessing.size, networks.features.channels
    export_onnx(
        networks.extractor,
        torch.zeros(1, 3, size, size),
        work / EXTRACTOR,
        source="image",
        result="features",
        dynamic={},
    )
    write_recognizer(networks.recognizer, work, form=networks.spec.form, channels=channels)


def write_recognizer(recognizer: torch.nn.Module, work: Path, *, form: str, channels: int) -> None:
    """Write a recognizer's ONNX file and weights into a package directory; `channels` are the feature map's."""
    if form == "set":
        example, dynamic = torch.zeros(1, 100, channels), {1: "vectors"}
    else:
        example, dynamic = torch.zeros(1, 1, 2 * channels), {}
    export_onnx(recognizer, example, work / RECOGNIZER, source="vectors", result="logits", dynamic=dynamic)
    save_file({k: v.contiguous() for k, v in recognizer.state_dict().items()}, work / WEIGHTS)


def _describe(
    networks: Networks,
    work: Path,
    *,
    folder: LabelledFolder,
    train: Sequence[Frame],
    held: Sequence[Frame],
    risk: float | None,
    progress: Progress,
) -> Package:
    """Calibrate, count the codec's tables, and seal the package in `work`."""
    anonymizer = "set" if networks.spec.form == "set" else "pool"
    allowed = RISK[networks.task] if risk is None else risk
    draft = Manifest(
        task=str(networks.task),
        labels=folder.classes,
        version="1.0",
        preprocessing=networks.preprocessing,
        features=networks.features,
        recognizer=networks.spec,
        released=_form(anonymizer, networks.levels, None, None),
        calibration=Calibration(1.0, METHODS[networks.task], (0.0, 1.0), (0.0, 1.0), 0.0, allowed, 0),
        lineage=Lineage(records={FOUNDING_SITE: len(train)}),
    )
    write_card(draft, work)
    runtime = Runtime(seal_package(work, draft))
    symbols, rows = [], []
    for i, frame in enumerate(train):
        vectors = release_vectors(runtime.extract(frame.pixels), anonymizer)
        symbols.append(codec.quantize(vectors, draft.released))
        rows.append(_truth(frame, draft))
        progress("codec tables", i + 1, len(train))
    logits = [runtime.logits(release_vectors(runtime.extract(f.pixels), anonymizer)) for f in held]
    truths = [_truth(f, draft) for f in held]
    final = replace(
        draft,
        released=_form(anonymizer, networks.levels, np.concatenate(symbols), np.concatenate(rows)),
        calibration=calibrate(logits, truths, task=networks.task, risk=allowed),
    )
    write_card(final, work)
    return seal_package(work, final)


def write_card(manifest: Manifest, work: Path) -> None:
    """Write a package's model card and MONAI metadata."""
    write_atomically(work / CARD, model_card(manifest).encode())
    write_atomically(work / METADATA, json.dumps(monai_metadata(manifest), indent=1).encode())


def _form(anonymizer: str, map_levels: tuple[int, ...], symbols: UInt8 | None, rows: UInt8 | None) -> ReleasedForm:
    """The released form of a map of these levels, its tables counted from symbols (M, C) and rows (M, T)."""
    c = len(map_levels)
    if anonymizer == "set":
        low, high, levels = (-1.0,) * c, (1.0,) * c, map_levels
    else:
        low, high, levels = (-1.0,) * c + (0.0,) * c, (1.0,) * (2 * c), (POOL_LEVELS,) * (2 * c)
    counts = [np.zeros(n) if symbols is None else np.bincount(symbols[:, i], minlength=n) for i, n in enumerate(levels)]
    kinds = np.array([6.0, 1.0, 1.0])
    if rows is not None:
        ones = rows.sum(axis=1)
        width = rows.shape[1]
        kinds = np.array([(ones == 0).sum(), (ones == width).sum(), ((ones > 0) & (ones < width)).sum()])
    return ReleasedForm(
        anonymizer,
        len(levels),
        low,
        high,
        levels,
        tuple(codec.frequency_table(x) for x in counts),
        codec.frequency_table(kinds),
    )


def _truth(frame: Frame, manifest: Manifest) -> UInt8:
    task = Task(manifest.task)
    return frame_targets(frame, task=task, classes=len(manifest.labels), grid=manifest.features.grid)


def _founding_records(
    package: Package,
    train: Sequence[Frame],
    held: Sequence[Frame],
    *,
    settings: FoundingSettings,
    versions: int,
    progress: Progress,
) -> list[Record]:
    """The founding features in the form of records, with the truth as their result."""
    runtime = Runtime(package)
    rng = np.random.default_rng(settings.seed)
    key = secrets.token_bytes(32)
    records = []
    for i, frame in enumerate(train):
        group = _pseudonym(key, frame)
        records += [
            _record(package, FOUNDING_SITE, group, vectors, rows)
            for vectors, rows in _versions(runtime, frame, versions, rng)
        ]
        progress("founding features", i + 1, len(train))
    for frame in held:
        ((vectors, rows),) = _versions(runtime, frame, 0, rng)
        records.append(_record(package, HELD_SITE, _pseudonym(key, frame), vectors, rows))
    return records


def _pseudonym(key: bytes, frame: Frame) -> bytes:
    """A group's pseudonym under a key that is forgotten when founding ends."""
    return hashlib.blake2b((frame.group or frame.name).encode(), key=key, digest_size=16).digest()


def _versions(
    runtime: Runtime, frame: Frame, versions: int, rng: np.random.Generator
) -> Iterable[tuple[Float32, UInt8]]:
    """A frame's released vectors and true rows, as it is and augmented."""
    manifest = runtime.package.manifest
    anonymizer = manifest.released.anonymizer
    yield release_vectors(runtime.extract(frame.pixels), anonymizer), _truth(frame, manifest)
    truth = frame.truth or Truth()
    size = manifest.preprocessing.size
    small = resize_frame(frame.pixels, size)
    mask = None if truth.mask is None else square_mask(truth.mask, size)
    for _ in range(versions):
        pixels, moved = augment(small, mask, rng)
        changed = replace(frame, pixels=pixels, truth=replace(truth, mask=moved))
        yield release_vectors(runtime.extract(pixels), anonymizer), _truth(changed, manifest)


def _record(package: Package, site: str, group: bytes, vectors: Float32, rows: UInt8) -> Record:
    manifest = package.manifest
    bag = canonical_order(Bag(codec.quantize(vectors, manifest.released), rows))
    return Record(
        site=site,
        device=site,
        package=package.digest,
        extractor=package.extractor_digest,
        task=manifest.task,
        anonymizer=manifest.released.anonymizer,
        vectors=len(bag.symbols),
        channels=manifest.released.channels,
        codec=codec.NAME,
        features=codec.encode_features(bag.symbols, manifest.released),
        recognition=codec.encode_rows(bag.recognized, manifest.released.target_frequencies),
        reliability=None,
        reliability_method=None,
        changed=None,
        changed_by=None,
        changed_when=None,
        group=group,
        period=quarter_of(datetime.now(UTC).date()),
    )
