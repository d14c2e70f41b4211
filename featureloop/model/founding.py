"""Founding training: extractor and recognizer, on the centre's own labelled frames.

The backbone is tuned first (`model.tuning`); where rows of masks leave by themselves,
what stands around a position is then put into its vector (`model.local_context`).
The neck is computed from what these leave, and the recognizer learns from
exactly what will be released, of boxes also from what a device has
(`model.founding_fit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Task
from featureloop.model.augment import augmentation_for
from featureloop.model.backbones import Backbone, efficientnet_lite0
from featureloop.model.checkpoint import Checkpoint
from featureloop.model.early_cache import EarlyCache, fill_cache
from featureloop.model.fit import BagSet, FitSettings
from featureloop.model.forms import FEW_ROWS, POOL, Form, parse_form
from featureloop.model.founding_features import LateRun, device_bags, neck_transform, sample_taps
from featureloop.model.founding_fit import fit_founding, rounding_of
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.leak import Leak
from featureloop.model.lesson import ALONE, Surroundings
from featureloop.model.local_context import MASKS_WIDTH, LocalHead
from featureloop.model.manifest import FeatureSpec, Preprocessing, RecognizerSpec
from featureloop.model.private_founding import found_private
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.tasks import RULES
from featureloop.model.tuning import learn_context, tune_late, tune_whole


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """The trained networks and what describes them.

    The neck takes the backbone's joined taps; what it makes of their neighbours first is a part of it, where there is.
    Where the neck was trained against what it must not tell, `leaks` say what the computed one told the held frames'
    attackers, and what this one does.
    """

    backbone: Backbone
    neck: nn.Module
    recognizer: nn.Module
    preprocessing: Preprocessing
    features: FeatureSpec
    spec: RecognizerSpec
    task: Task
    levels: tuple[int, ...]
    bits_per_vector: float
    pooling: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()


def recognizer_spec(task: Task, classes: int, settings: FoundingSettings) -> RecognizerSpec:
    """The recognizer that suits a task.

    Raises
    ------
    InputError
        The form that the settings ask for doesn't suit it, or the released form, the pooling or the heads don't suit
        that one.
    """
    rules = RULES[task]
    suitable = ("global", "attention") if rules.form == "global" else (rules.form,)
    wanted = parse_form(settings.release) if settings.release else None
    usual = "attention" if rules.form == "global" and wanted and wanted.base != POOL else rules.form
    form = settings.form or usual
    if form not in suitable:
        raise InputError(f"a recognizer of the form '{form}' doesn't suit {task}; choose {' or '.join(suitable)}")
    if settings.pooling and form != "global":
        raise InputError(f"a recognizer of the form '{form}' takes vectors that aren't pooled; leave the pooling out")
    if settings.heads and form == "global":
        raise InputError(
            f"a recognizer of the form 'global' sees one vector, so {settings.heads} heads of attention among rows "
            "have nothing to look at; leave the heads out, or choose the form 'attention'"
        )
    blocks = 2 if form == "global" else settings.blocks
    spec = RecognizerSpec(form, settings.width, blocks, rules.outputs(classes), settings.heads)
    released = released_form(spec, settings)
    if released.context:
        return spec
    if settings.heads:
        raise InputError(
            f"in the form '{released}' a record holds not all rows of one frame, so {settings.heads} heads of "
            "attention among them would learn from others than a frame has; leave the heads out"
        )
    return replace(spec, context=False)


def released_form(spec: RecognizerSpec, settings: FoundingSettings) -> Form:
    """The form in which features leave for a recognizer.

    Raises
    ------
    InputError
        The recognizer can't learn from what the settings ask for.
    """
    if not settings.release:
        few = spec.form == "set" and not settings.heads
        return parse_form(FEW_ROWS) if few else Form(spec.anonymizer)
    form = parse_form(settings.release)
    form.check_rows(own=spec.form == "set")
    if (form.base == POOL) != (spec.anonymizer == POOL):
        raise InputError(
            f"a recognizer of the form '{spec.form}' can't learn from features in the form '{form}': 'pool' is for "
            "'global' and the others for 'set' and 'attention'"
        )
    return form


def train_networks(
    frames: Sequence[Frame],
    *,
    task: Task,
    classes: int,
    settings: FoundingSettings,
    held: Sequence[Frame] = (),
    backbone: Backbone | None = None,
    checkpoint: Checkpoint | None = None,
    around: Surroundings = ALONE,
) -> Networks:
    """Train extractor and recognizer on labelled frames.

    Fine-tunes the backbone under a recognizer of its taps; trains local context
    on the tuned taps, where there is to be any; computes the neck's transform
    from what these leave and from what is recognized from it, then trains the
    recognizer that is kept on what the neck leaves, of boxes before and after
    quantization, of the others after it.

    Parameters
    ----------
    held
        Frames that no weight is learned from: they say when a training gets worse.
    backbone
        Tuned in place: its late part, or all of it, as the profile says; None takes EfficientNet-Lite0.
    checkpoint
        Where the training is kept, and gone on with; None keeps nothing.
    around
        Who watches, and where it calculates; its keeper is the checkpoint's.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs, the backbone can't be tuned as the profile asks, or a local width
        doesn't suit the recognizer.
    PackageError
        The backbone doesn't make what it declares.
    StorageError
        The checkpoint can't be written.
    """
    torch.manual_seed(settings.seed)
    made: Backbone = backbone or efficientnet_lite0()
    spec = recognizer_spec(task, classes, settings)
    leaves = released_form(spec, settings)
    progress = around.progress
    around = around if checkpoint is None else replace(around, keeper=checkpoint)
    augmentation = augmentation_for(frames, settings.augmentation)
    head: nn.Module = build_recognizer(spec, channels=_head_channels(made, spec, settings))
    local = _local_head(made, spec, settings, task)
    if settings.profile == "full":
        tune_whole(made, head, spec, frames, held, task=task, classes=classes, settings=settings, around=around)

    def cached(some: Sequence[Frame], name: str, augmentations: int) -> EarlyCache:
        return fill_cache(
            some,
            made,
            task=task,
            classes=classes,
            preprocessing=settings.preprocessing,
            augmentations=augmentations,
            seed=settings.seed,
            augmentation=augmentation,
            name=name,
            checkpoint=checkpoint,
            progress=progress,
        )

    cache = cached(frames, "frames", settings.augmentations)
    looked = cached(held, "held", settings.augmentations if settings.adversary else 0) if held else None
    kept = looked and looked.every(settings.augmentations + 1 if settings.adversary else 1)
    if settings.profile == "fast":
        tune_late(made, head, spec, cache, kept, task=task, settings=settings, around=around)
    rng = np.random.default_rng((settings.seed, 3))
    late = made.late
    taps = LateRun(late, cache, batch=settings.batch)
    if local is not None:
        learn_context(local, taps, cache, kept, task=task, settings=settings, around=around)
        late, head = nn.Sequential(late, local.context), local.last
        taps = LateRun(late, cache, batch=settings.batch)
    sampled = sample_taps(taps, head, cache, spec, task=task, settings=settings, rng=rng, progress=progress)
    transform = neck_transform(sampled, spec, settings)
    leaks: tuple[Leak, ...] = ()
    neck, levels, bits = transform.neck(), transform.levels, transform.bits
    if settings.adversary:
        sides = [(frames, cache)] + ([] if looked is None else [(held, looked)])
        neck, levels, bits, leaks = found_private(
            late, sampled, transform, sides, spec, task=task, settings=settings, around=around
        )
    released = LateRun(nn.Sequential(late, neck), cache, batch=settings.batch)

    def bags_of(some: EarlyCache) -> BagSet:
        return device_bags(released, some, spec, task=task, settings=settings, progress=progress)

    bags, held_bags = bags_of(cache), None if kept is None else bags_of(kept)
    torch.manual_seed(settings.seed)  # what came before may have been done by an earlier process
    recognizer = build_recognizer(spec, channels=bags.values.shape[2])
    if isinstance(recognizer, GlobalRecognizer):
        recognizer.standardize_by(torch.from_numpy(bags.values))
    passes = settings.recognizer_steps(len(frames)) * settings.batch / len(bags)
    rows = leaves.subset if spec.form == "attention" else 0
    fit = FitSettings(passes, settings.batch, settings.learning_rate, rows=rows, seed=settings.seed, name="recognizer")
    rounding = rounding_of(leaves, (-1.0,) * len(levels), (1.0,) * len(levels), levels)
    fit_founding(recognizer, bags, rounding, task=task, settings=fit, held=held_bags, around=around)
    return Networks(
        made,
        (neck if local is None else nn.Sequential(local.context, neck)).eval(),
        recognizer.eval(),
        settings.preprocessing,
        FeatureSpec(len(levels), made.stride, settings.size // made.stride, made.name),
        spec,
        task,
        levels,
        bits,
        settings.statistics if spec.anonymizer == "pool" else (),
        leaks,
    )


def _head_channels(backbone: Backbone, spec: RecognizerSpec, settings: FoundingSettings) -> int:
    """Values a vector of what the backbone is tuned under takes: where taps are pooled, each gives its statistics."""
    return backbone.channels * (1 if spec.anonymizer == "set" else len(settings.statistics))


def _local_head(backbone: Backbone, spec: RecognizerSpec, settings: FoundingSettings, task: Task) -> LocalHead | None:
    """What makes local context of the joined taps, where the settings ask for it, or where it suits masks."""
    alone, width = spec.form == "set" and not spec.context, settings.local_width
    if width is None:
        width = MASKS_WIDTH if alone and task is Task.SEGMENTATION else 0
    if not width:
        return None
    if not alone:
        raise InputError(
            f"a local width of {width} is for a recognizer that sees each row of a map by itself, "
            "as of masks and boxes in a form with 'subset'; leave it out, or choose such a form"
        )
    return LocalHead(backbone.channels, spec, width=width)
