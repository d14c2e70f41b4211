"""A further task on a package's extractor: a recognizer of its own, of the same features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.learner.assembly import described, plain_form, write_card, write_recognizer
from featureloop.learner.pooled_tables import pooled_vectors, with_sensitive_levels
from featureloop.model.augment import augment, augmentation_for
from featureloop.model.early_cache import square_truth
from featureloop.model.fit import BagSet, FitSettings
from featureloop.model.forms import POOL, Form
from featureloop.model.founding import recognizer_spec, released_form
from featureloop.model.founding_features import frame_shares
from featureloop.model.founding_fit import fit_founding, rounding_of
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Surroundings
from featureloop.model.manifest import Manifest, uncalibrated
from featureloop.model.package import Package, seal_package
from featureloop.model.preprocess import resize_frame
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES, true_rows
from featureloop.sharing.anonymize import release_vectors


@dataclass(frozen=True, slots=True, eq=False)
class Further:
    """A task to add, with labelled frames.

    Attributes
    ----------
    classes
        Class names, by label.
    train, held
        Frames to learn from, and frames that no weight is learned from.
    """

    task: Task
    classes: tuple[str, ...]
    train: Sequence[Frame]
    held: Sequence[Frame]


def add_head(
    package: Package, further: Further, *, settings: FoundingSettings, risk: float | None, around: Surroundings
) -> Package:
    """Train a recognizer of the package's features as founding does it, and write it into the package's directory.

    The extractor stays as it is, so that the package stays of its line.

    Raises
    ------
    InputError
        The package has the task already, the frames lack its labels, or its features can't serve it.
    """
    manifest, head = package.manifest, str(further.task)
    check_new(manifest, further.task)
    draft, form = _draft(manifest, further, settings=settings, risk=risk)
    runtime = Runtime(package)
    bags = _bags(runtime, draft, further.train, settings=settings, versions=settings.augmentations, around=around)
    held = _bags(runtime, draft, further.held, settings=settings, versions=0, around=around)
    torch.manual_seed(settings.seed)
    recognizer = build_recognizer(draft.recognizer, channels=draft.released.channels)
    if isinstance(recognizer, GlobalRecognizer):
        recognizer.standardize_by(torch.from_numpy(bags.values))
    passes = settings.recognizer_steps(len(further.train)) * settings.batch / len(bags)
    rows = draft.released.form.subset if draft.recognizer.form == "attention" else 0
    name = f"recognizer of {further.task}"
    fit = FitSettings(passes, settings.batch, settings.learning_rate, rows=rows, seed=settings.seed, name=name)
    left = draft.released
    rounding = rounding_of(form, left.low, left.high, left.levels)
    fit_founding(recognizer, bags, rounding, task=further.task, settings=fit, held=held, around=around)
    kind, channels = draft.recognizer.form, draft.released.channels
    write_recognizer(recognizer, package.path, form=kind, channels=channels, head=head)
    view = _view(package, manifest.with_task(draft), further.task)
    if form.base == POOL:
        known = pooled_vectors(view, further.train)
        draft = with_sensitive_levels(draft, recognizer, known, settings, form=form)
        view = _view(package, manifest.with_task(draft), further.task)
    whole = manifest.with_task(described(view, further.train, further.held, form=form, progress=around.progress))
    write_card(whole, package.path)
    return seal_package(package.path, whole)


def _view(package: Package, whole: Manifest, task: Task) -> Runtime:
    """One task of a package that is sealed with this manifest."""
    return Runtime(seal_package(package.path, whole).view(task))


def check_new(manifest: Manifest, task: Task) -> None:
    """Refuse a task that a package has already.

    Raises
    ------
    InputError
        Which tasks it has.
    """
    if task in manifest.tasks:
        raise InputError(f"the package recognizes {task} already; it is for {', '.join(manifest.tasks)}")


def check_suits(task: Task, anonymizer: str, *, first: str) -> None:
    """Refuse a further task that needs more of the features than the package's first one leaves.

    Parameters
    ----------
    anonymizer, first
        Bases of the released forms, of the further task and of the package's first one.

    Raises
    ------
    InputError
        What to do.
    """
    if first == POOL and anonymizer != POOL:
        raise InputError(
            f"{task} needs the features of every position, and the package was founded for one vector a frame; "
            f"found a package with --task {task} first"
        )


def settings_beside(first: Form, task: Task, settings: FoundingSettings) -> FoundingSettings:
    """The settings for a further task: its features leave as the package's first task leaves them, as far as it can.

    Raises
    ------
    InputError
        The task can't learn from that form.
    """
    if RULES[task].form == "set":
        form = Form("set") if first.base == POOL else first
    elif settings.form == "attention":
        form = Form("set") if first.base == POOL else replace(first, balanced=False)
        form.check_rows(own=False)
    else:
        form = Form(POOL, noise=first.noise, quantize=first.quantize)
    return replace(settings, release=str(form))


def _draft(
    manifest: Manifest, further: Further, *, settings: FoundingSettings, risk: float | None
) -> tuple[Manifest, Form]:
    """The view of the task before its tables are counted and its results calibrated, and how its features leave."""
    rules = RULES[further.task]
    released = manifest.released
    settings = settings_beside(released.form, further.task, settings)
    spec = recognizer_spec(further.task, len(further.classes), settings)
    check_suits(further.task, spec.anonymizer, first=released.form.base)
    form, flags = released_form(spec, settings), rules.flags(len(further.classes))
    if form.base == POOL:
        made = plain_form(form, (2,) * manifest.features.channels, settings.statistics, flags=flags)
    else:  # What one map leaves, every task leaves alike.
        made = replace(released, anonymizer=str(form), flags=flags, bag=None)
    draft = replace(
        manifest,
        task=str(further.task),
        labels=further.classes,
        recognizer=spec,
        released=made,
        calibration=uncalibrated(rules.method, risk=rules.risk if risk is None else risk, score=settings.score),
        heads=(),
    )
    return draft, form


def _bags(
    runtime: Runtime,
    draft: Manifest,
    frames: Sequence[Frame],
    *,
    settings: FoundingSettings,
    versions: int,
    around: Surroundings,
) -> BagSet:
    """Frames and changed versions of them as a device has them, with their rows of targets."""
    by = augmentation_for(frames, settings.augmentation)
    values: list[Float32] = []
    targets: list[UInt8] = []
    form = draft.released
    for i, frame in enumerate(frames):
        size = draft.preprocessing.size
        small, square = resize_frame(frame.pixels, size), square_truth(frame, size)
        rng = np.random.default_rng((settings.seed, 4, i))
        moved = (augment(small, square, rng, by=by) for _ in range(versions))
        changed = [replace(frame, pixels=pixels, truth=truth) for pixels, truth in moved]
        for version in (frame, *changed):
            values.append(release_vectors(runtime.extract(version.pixels), form))
            targets.append(
                true_rows(version, task=Task(draft.task), labels=len(draft.labels), grid=draft.features.grid)
            )
        around.progress(f"features for {draft.task}", i + 1, len(frames))
    rows, channels = np.stack(targets), form.channels
    shares = frame_shares(rows, task=Task(draft.task))
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    return BagSet(np.stack(values), rows, shares, np.ones(len(rows), np.float32), one, zero)
