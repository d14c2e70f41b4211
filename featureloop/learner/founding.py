"""Founding: a first package from the images that a centre already holds.

Trains the networks, exports them, calibrates on held-out groups, counts the
codec's tables, writes the package, and keeps the founding features as records,
so that later trainings can replay them without the images.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from featureloop.core.errors import InputError, StorageError
from featureloop.core.ports import Progress
from featureloop.core.types import Frame, Skipped, UInt8
from featureloop.images.labelled import LabelledFolder, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.founding_records import (
    FOUNDING_SITE,
    founding_records,
    founding_records_path,
    package_rows,
    save_records,
)
from featureloop.model.backbones import DEFAULT, Backbone
from featureloop.model.card import model_card
from featureloop.model.checkpoint import open_checkpoint
from featureloop.model.export import export_onnx
from featureloop.model.founding import Networks, train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.loop import ALONE, Surroundings
from featureloop.model.manifest import Lineage, Manifest, ReleasedForm, uncalibrated
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
from featureloop.model.pooling import pooled_bounds
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import calibrate

CALIBRATION_SHARE = 0.1
POOL_LEVELS = 255


@dataclass(frozen=True, slots=True, eq=False)
class Founded:
    """A founding package, its founding records' file, and the frames that could not be used."""

    package: Package
    records: Path
    skipped: tuple[Skipped, ...]
    frames: int


def found_package(
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    out: Path,
    *,
    settings: FoundingSettings,
    backbone: Backbone | None = None,
    replay_versions: int = 1,
    risk: float | None = None,
    around: Surroundings = ALONE,
) -> Founded:
    """Train a founding package on the labelled items, and write it to the new directory `out`.

    What is trained is kept beside `out` until the package is written: a
    training that was killed goes on from there when it is started again.

    Parameters
    ----------
    backbone
        What the extractor is made of; None takes EfficientNet-Lite0.
    replay_versions
        Augmented versions of every founding frame that are kept for replay, besides the original.
    risk
        Mean loss that results above the threshold may have; None takes what the task's rules say.
    around
        Who watches the training, and where it calculates.

    Raises
    ------
    InputError
        `out` exists, too few frames can be used, or another training was left unfinished there.
    StorageError
        The package can't be written.
    """
    if out.exists():
        raise InputError(f"'{out}' exists already; choose another --out or remove it")
    progress = around.progress
    train_items, held_items = split(items, hold_out=CALIBRATION_SHARE, seed=settings.seed)
    train, bad_train = _read(folder, train_items, progress)
    held, bad_held = _read(folder, held_items, progress)
    if len(train) < 8 or not held:
        raise InputError(
            f"{len(train)} frames to learn from and {len(held)} to calibrate on are too few; give at least 20"
        )
    checkpoint = open_checkpoint(
        out,
        [*train, *held],
        task=folder.task,
        classes=folder.classes,
        settings=settings,
        backbone=DEFAULT if backbone is None else backbone.name,
    )
    networks = train_networks(
        train,
        task=folder.task,
        classes=len(folder.classes),
        settings=settings,
        held=held,
        backbone=backbone,
        checkpoint=checkpoint,
        around=around,
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
    records = founding_records(package, train, held, settings=settings, versions=replay_versions, progress=progress)
    path = founding_records_path(out)
    save_records(records, path)
    checkpoint.remove()
    return Founded(package, path, (*bad_train, *bad_held), len(train) + len(held))


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
    networks.backbone.write_extractor(networks.neck, work / EXTRACTOR, size=networks.preprocessing.size)
    channels = networks.features.channels * max(1, len(networks.pooling))
    write_recognizer(networks.recognizer, work, form=networks.spec.form, channels=channels)


def write_recognizer(recognizer: torch.nn.Module, work: Path, *, form: str, channels: int) -> None:
    """Write a recognizer's ONNX file and weights into a package directory; `channels` are a released vector's."""
    if form != "global":
        example, dynamic = torch.zeros(1, 100, channels), {1: "vectors"}
    else:
        example, dynamic = torch.zeros(1, 1, channels), {}
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
    rules = RULES[networks.task]
    allowed = rules.risk if risk is None else risk
    draft = Manifest(
        task=str(networks.task),
        labels=folder.classes,
        version="1.0",
        preprocessing=networks.preprocessing,
        features=networks.features,
        recognizer=networks.spec,
        released=_form(networks, None, None, flags=rules.flags(len(folder.classes))),
        calibration=uncalibrated(rules.method, risk=allowed),
        lineage=Lineage(records={FOUNDING_SITE: len(train)}),
    )
    write_card(draft, work)
    runtime = Runtime(seal_package(work, draft))
    symbols, rows = [], []
    for i, frame in enumerate(train):
        vectors = release_vectors(runtime.extract(frame.pixels), draft.released)
        symbols.append(codec.quantize(vectors, draft.released))
        rows.append(package_rows(frame, draft))
        progress("codec tables", i + 1, len(train))
    logits = [runtime.logits(release_vectors(runtime.extract(f.pixels), draft.released)) for f in held]
    truths = [package_rows(f, draft) for f in held]
    final = replace(
        draft,
        released=_form(networks, np.concatenate(symbols), np.concatenate(rows), flags=draft.released.flags),
        calibration=calibrate(logits, truths, task=networks.task, risk=allowed),
    )
    write_card(final, work)
    return seal_package(work, final)


def write_card(manifest: Manifest, work: Path) -> None:
    """Write a package's model card and MONAI metadata."""
    write_atomically(work / CARD, model_card(manifest).encode())
    write_atomically(work / METADATA, json.dumps(monai_metadata(manifest), indent=1).encode())


def _form(networks: Networks, symbols: UInt8 | None, rows: UInt8 | None, *, flags: int | None) -> ReleasedForm:
    """The released form of the networks' map, its tables counted from symbols (M, C) and rows (M, T)."""
    anonymizer, levels = networks.spec.anonymizer, networks.levels
    if anonymizer == "set":
        low, high = (-1.0,) * len(levels), (1.0,) * len(levels)
    else:
        low, high = pooled_bounds(networks.pooling, len(levels))
        levels = (POOL_LEVELS,) * len(low)
    counts = [np.zeros(n) if symbols is None else np.bincount(symbols[:, i], minlength=n) for i, n in enumerate(levels)]
    kinds, coded = np.array([6, 1, 1]), np.zeros(256, np.intp)
    if rows is not None and flags is not None:
        each = codec.row_kinds(rows, flags)
        kinds = np.bincount(each, minlength=3)
        coded = np.bincount(rows[each > 0, flags:].reshape(-1), minlength=256)
    return ReleasedForm(
        anonymizer,
        len(levels),
        low,
        high,
        levels,
        tuple(codec.frequency_table(x) for x in counts),
        codec.frequency_table(kinds),
        codec.frequency_table(coded),
        flags,
        networks.pooling,
    )
