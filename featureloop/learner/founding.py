"""Founding: a first package from the images that a centre already holds.

Trains the networks, exports them, calibrates on held-out groups, counts the
codec's tables, writes the package, and keeps the founding features as records,
so that later trainings can replay them without the images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree, ignore_patterns

from featureloop.core.errors import InputError, StorageError
from featureloop.core.ports import Progress
from featureloop.core.types import Frame, Skipped, Task
from featureloop.images.labelled import LabelledFolder
from featureloop.images.several import held_groups
from featureloop.images.truths import LabelledItem
from featureloop.learner.assembly import described, next_version, plain_form, write_card, write_recognizer
from featureloop.learner.founding_records import (
    FOUNDING_SITE,
    founding_records,
    founding_records_path,
    load_records,
    save_records,
)
from featureloop.learner.heads import Further, add_head, check_new, check_suits, settings_beside
from featureloop.learner.operating_point import operating_point
from featureloop.learner.pooled_tables import pooled_vectors, with_sensitive_levels
from featureloop.model.backbones import DEFAULT, DEFAULT_STRIDE, Backbone
from featureloop.model.card import OPERATING_POINT
from featureloop.model.checkpoint import open_checkpoint
from featureloop.model.forms import POOL
from featureloop.model.founding import Networks, recognizer_spec, released_form, train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.leak import Leak
from featureloop.model.lesson import ALONE, Surroundings
from featureloop.model.manifest import Lineage, Manifest, uncalibrated
from featureloop.model.package import EXTRACTOR, SIGNATURE, Package, seal_package
from featureloop.model.preprocess import resize_frame
from featureloop.model.runtime import Runtime
from featureloop.model.score_words import check_score
from featureloop.model.tasks import RULES, check_distinct
from featureloop.sharing.record import Record

CALIBRATION_SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Founded:
    """A founding package, its founding records' file, the frames that could not be used, and `Networks.leaks`."""

    package: Package
    records: Path
    skipped: tuple[Skipped, ...]
    frames: int
    leaks: tuple[Leak, ...] = ()


def found_package(
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    out: Path,
    *,
    settings: FoundingSettings,
    further: Sequence[tuple[LabelledFolder, Sequence[LabelledItem]]] = (),
    backbone: Backbone | None = None,
    replay_versions: int = 1,
    risk: float | None = None,
    hold_out: float | None = None,
    around: Surroundings = ALONE,
) -> Founded:
    """Train a founding package on the labelled items, and write it to the new directory `out`.

    What is trained is kept beside `out` until the package is written: a
    training that was killed goes on from there when it is started again.

    Parameters
    ----------
    further
        Folders and items of further tasks, recognized from the features that the first one made.
    backbone
        What the extractor is made of; None takes EfficientNet-Lite0.
    replay_versions
        Augmented versions of every founding frame that are kept for replay, besides the original.
    risk
        Mean loss that results above the threshold may have; None takes what the task's rules say.
    hold_out
        Share of the groups that was split off by the settings' seed before, for the lineage to say.
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
    check_distinct([folder.task, *(some.task for some, _ in further)])
    for some, _ in ((folder, items), *further):
        check_score(some.task, settings.score)
    given, settings = settings, _suiting(settings, folder.task) if further else settings
    first = released_form(recognizer_spec(folder.task, len(folder.classes), settings), settings)
    first.check_grid(settings.size // (DEFAULT_STRIDE if backbone is None else backbone.stride))
    for some, _ in further:
        suiting = settings_beside(first, some.task, _suiting(given, some.task))
        spec = recognizer_spec(some.task, len(some.classes), suiting)
        check_suits(some.task, spec.anonymizer, first=first.base)
    parts = (items, *(its_items for _, its_items in further))
    held = _calibrating(parts, seed=settings.seed)
    own, bad = _read(folder, items, around.progress, size=settings.size, held=held)
    others, others_bad = [], []
    for some, its_items in further:
        read, its_bad = _read(some, its_items, around.progress, size=settings.size, held=held)
        others.append(read)
        others_bad += its_bad
    for one in (own, *others):
        _check_mixable(one, first.mix)
    checkpoint = open_checkpoint(
        out,
        [frame for one in (own, *others) for frame in (*one.train, *one.held)],
        tasks=[(some.task, some.classes) for some in (folder, *(labelled for labelled, _ in further))],
        settings=settings,
        backbone=DEFAULT if backbone is None else backbone.name,
    )
    kept = replace(around, keeper=checkpoint)
    networks = train_networks(
        own.train,
        task=folder.task,
        classes=len(folder.classes),
        settings=settings,
        held=own.held,
        backbone=backbone,
        checkpoint=checkpoint,
        around=around,
    )
    with _written(out) as work:
        lineage = Lineage(records={FOUNDING_SITE: len(own.train)}, hold_out=hold_out, seed=settings.seed)
        package = _first(networks, work, own, settings=settings, lineage=lineage, risk=risk, progress=around.progress)
        for one in others:
            package = add_head(package, one, settings=_suiting(given, one.task), risk=risk, around=kept)
    package = Package(out, package.manifest, package.digest)
    records = []
    for one in (own, *others):
        records += _records(package.view(one.task), one, settings, replay_versions, around.progress)
    path = founding_records_path(out)
    save_records(records, path)
    checkpoint.remove()
    frames = len(own.train) + len(own.held)
    return Founded(package, path, tuple(dict.fromkeys((*bad, *others_bad))), frames, networks.leaks)


def add_task(
    package: Package,
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    out: Path,
    *,
    settings: FoundingSettings,
    replay_versions: int = 1,
    risk: float | None = None,
    around: Surroundings = ALONE,
) -> Founded:
    """Write a package to the new directory `out` that recognizes a further task from the same features.

    Its extractor is the package's, so it is of the same line, and a device can take it over. The package's
    founding records go along where they lie beside it; a learner that holds the package has them already.

    Raises
    ------
    InputError
        `out` exists, too few frames can be used, or the task doesn't suit the package.
    RecordError
        The package's founding records are damaged.
    StorageError
        The package can't be written.
    """
    if out.exists():
        raise InputError(f"'{out}' exists already; choose another --out or remove it")
    check_new(package.manifest, folder.task)
    check_score(folder.task, settings.score)
    beside = founding_records_path(package.path)
    earlier = load_records(beside) if beside.exists() else []
    held = _calibrating([items], seed=settings.seed)
    own, bad = _read(folder, items, around.progress, size=package.manifest.preprocessing.size, held=held)
    _check_mixable(own, package.manifest.released.form.mix)
    with _written(out) as work:
        copytree(package.path, work, ignore=ignore_patterns(SIGNATURE))
        lineage = replace(package.manifest.lineage, parent=package.digest.hex())
        version = next_version(package.manifest.version)
        draft = seal_package(work, replace(package.manifest, version=version, lineage=lineage, reports={}))
        made = add_head(draft, own, settings=settings, risk=risk, around=around)
    made = Package(out, made.manifest, made.digest)
    records = _records(made.view(own.task), own, settings, replay_versions, around.progress)
    path = founding_records_path(out)
    save_records([*earlier, *records], path)
    return Founded(made, path, tuple(bad), len(own.train) + len(own.held))


def _read(
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    progress: Progress,
    *,
    size: int,
    held: frozenset[str],
) -> tuple[Further, list[Skipped]]:
    """The frames to learn from and those held for calibration, and what could not be read.

    Parameters
    ----------
    size
        Pixels per side of the extractor's input.
    held
        The groups to calibrate on (`_calibrating`).

    Raises
    ------
    InputError
        They are too few.
    """
    bad: list[Skipped] = []
    read: list[list[Frame]] = []
    for wanted in (False, True):
        part = [item for item in items if (item.group in held) is wanted]
        frames: list[Frame] = []
        for i, item in enumerate(folder.frames(part)):
            if isinstance(item, Skipped):
                bad.append(item)
            else:  # Small, as training and recognition take it: all of them stay in memory.
                frames.append(replace(item, pixels=resize_frame(item.pixels, size)))
            progress("reading images", i + 1, len(part))
        read.append(frames)
    train, calibrating = read
    if len(train) < 8 or not calibrating:
        raise InputError(
            f"{len(train)} frames labelled for {folder.task} to learn from and {len(calibrating)} to calibrate on are "
            "too few; give at least 20"
        )
    return Further(folder.task, folder.classes, train, calibrating), bad


def _check_mixable(own: Further, mix: int) -> None:
    """Refuse too few groups to mix so many frames of different ones in a record, before anything is trained."""
    for what, frames in (("to learn from", own.train), ("to calibrate on", own.held)):
        groups = len({frame.group or frame.name for frame in frames})
        if mix > 1 and groups < mix:
            raise InputError(
                f"the frames {what} are of {groups} groups, too few to mix those of {mix} in a record; give images of "
                "more patients, or mix fewer"
            )


def _calibrating(parts: Sequence[Sequence[LabelledItem]], *, seed: int) -> frozenset[str]:
    """The groups of several tasks' items that all of them calibrate on: none that alone shows a class."""
    groups_of: dict[int, set[str]] = {}
    for item in (item for items in parts for item in items):
        if item.label is not None:
            groups_of.setdefault(item.label, set()).add(item.group)
    alone = {group for groups in groups_of.values() if len(groups) == 1 for group in groups}
    return held_groups(parts, hold_out=CALIBRATION_SHARE, seed=seed) - alone


def _suiting(settings: FoundingSettings, task: Task) -> FoundingSettings:
    """The settings for one of several tasks: a form and a pooling are meant for whole frames, heads for rows.

    What is made of neighbours would be made for the first task alone, so of several it is asked for, or left out.
    """
    if RULES[task].form != "global":
        return replace(settings, form=None, pooling=(), local_width=settings.local_width or 0)
    return settings if settings.form == "attention" else replace(settings, heads=0)


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """A directory that becomes `out` when all that is to be in it was written.

    Raises
    ------
    StorageError
        It can't be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            work = Path(folder) / "package"
            yield work
            work.rename(out)
    except OSError as error:
        raise StorageError(f"the package can't be written to '{out}': {error}") from error


def _records(
    view: Package, own: Further, settings: FoundingSettings, versions: int, progress: Progress
) -> list[Record]:
    return founding_records(view, own.train, own.held, settings=settings, versions=versions, progress=progress)


def _first(
    networks: Networks,
    work: Path,
    own: Further,
    *,
    settings: FoundingSettings,
    lineage: Lineage,
    risk: float | None,
    progress: Progress,
) -> Package:
    """Write the networks of the first task into `work`, count the codec's tables, calibrate, and seal."""
    networks.backbone.write_extractor(networks.neck, work / EXTRACTOR, size=networks.preprocessing.size)
    rules, spec = RULES[networks.task], networks.spec
    flags = rules.flags(len(own.classes))
    form = released_form(spec, settings)
    draft = Manifest(
        task=str(networks.task),
        labels=own.classes,
        version="1.0",
        preprocessing=networks.preprocessing,
        features=networks.features,
        recognizer=spec,
        released=plain_form(form, networks.levels, networks.pooling, flags=flags),
        calibration=uncalibrated(rules.method, risk=rules.risk if risk is None else risk, score=settings.score),
        lineage=lineage,
    )
    write_recognizer(networks.recognizer, work, form=spec.form, channels=draft.released.channels)
    write_card(draft, work)
    runtime = Runtime(seal_package(work, draft))
    known = None
    if form.base == POOL:
        known = pooled_vectors(runtime, own.train)
        draft = with_sensitive_levels(draft, networks.recognizer, known, settings, form=form)
        runtime = Runtime(seal_package(work, draft))
    if settings.max_loss is not None:
        point = operating_point(runtime, own.held, max_loss=settings.max_loss, known=known, progress=progress)
        chosen = {"coarser": point.coarser, "loss": point.loss, "max_loss": settings.max_loss, "frames": len(own.held)}
        runtime = Runtime(seal_package(work, replace(draft, released=point.form, reports={OPERATING_POINT: chosen})))
    final = described(runtime, own.train, own.held, form=form, progress=progress)
    write_card(final, work)
    return seal_package(work, final)
