"""Founding training: extractor and recognizer, on the centre's own labelled frames.

The early stages stay as ImageNet left them and run once per frame and
augmentation; their outputs are cached, so that an epoch costs only the later
stages. The neck is then computed from the tuned taps, and the recognizer
learns from exactly what will be released.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Frame, Task
from featureloop.model.backbones import Backbone, efficientnet_lite0
from featureloop.model.early_cache import EarlyCache, fill_cache
from featureloop.model.fit import FitSettings, fit_recognizer, running_average
from featureloop.model.founding_features import (
    frame_shares,
    neck_transform,
    pool_map,
    released_bags,
    to_vectors,
)
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import FeatureSpec, Preprocessing, RecognizerSpec
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.tasks import RULES


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """The trained networks and what describes them."""

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


def recognizer_spec(task: Task, classes: int, settings: FoundingSettings) -> RecognizerSpec:
    """The recognizer that suits a task.

    Raises
    ------
    InputError
        The form that the settings ask for doesn't suit it, or the pooling doesn't suit the form.
    """
    rules = RULES[task]
    suitable = ("global", "attention") if rules.form == "global" else (rules.form,)
    form = settings.form or rules.form
    if form not in suitable:
        raise InputError(f"a recognizer of the form '{form}' doesn't suit {task}; choose {' or '.join(suitable)}")
    if settings.pooling and form != "global":
        raise InputError(f"a recognizer of the form '{form}' takes vectors that aren't pooled; leave the pooling out")
    blocks = 2 if form == "global" else settings.blocks
    return RecognizerSpec(form, settings.width, blocks, rules.outputs(classes))


def train_networks(
    frames: Sequence[Frame],
    *,
    task: Task,
    classes: int,
    settings: FoundingSettings,
    backbone: Backbone | None = None,
    progress: Progress = silent,
) -> Networks:
    """Train extractor and recognizer on labelled frames.

    Fine-tunes the late stages under a recognizer of their taps, computes the
    neck's transform from the tuned taps and from what that recognizer makes of
    them, then trains the recognizer that is kept on what the neck leaves after
    quantization.

    Parameters
    ----------
    backbone
        Its late part is tuned in place; None takes EfficientNet-Lite0.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs.
    PackageError
        The backbone doesn't make what it declares.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    made: Backbone = backbone or efficientnet_lite0()
    late = made.late
    spec = recognizer_spec(task, classes, settings)
    cache = fill_cache(
        frames,
        made,
        task=task,
        classes=classes,
        size=settings.size,
        augmentations=settings.augmentations,
        rng=rng,
        progress=progress,
    )
    head = _tune(made, cache, spec, task=task, settings=settings, rng=rng, progress=progress)
    transform = neck_transform(late, head, cache, spec, task=task, settings=settings, rng=rng, progress=progress)
    neck = transform.neck()
    released = nn.Sequential(late, neck)
    bags = released_bags(released, cache, spec, transform, task=task, settings=settings, progress=progress)
    recognizer = build_recognizer(spec, channels=bags.values.shape[2])
    if isinstance(recognizer, GlobalRecognizer):
        recognizer.standardize_by(torch.from_numpy(bags.values.astype(np.float32)))
    passes = settings.recognizer_steps(len(frames)) * settings.batch / len(bags)
    fit = FitSettings(epochs=passes, batch=settings.batch, learning_rate=settings.learning_rate, seed=settings.seed)
    fit_recognizer(recognizer, bags, task=task, settings=fit, progress=progress)
    return Networks(
        made,
        neck.eval(),
        recognizer.eval(),
        Preprocessing(settings.size),
        FeatureSpec(len(transform.levels), made.stride, settings.size // made.stride, made.name),
        spec,
        task,
        transform.levels,
        transform.bits,
        settings.statistics if spec.anonymizer == "pool" else (),
    )


def _tune(
    backbone: Backbone,
    cache: EarlyCache,
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> nn.Module:
    """Fine-tune the late part in place, under a recognizer of its joined taps; return that."""
    late, taps = backbone.late, backbone.channels
    versions = settings.augmentations + 1
    frames = len(cache.targets) // versions
    steps = settings.tuning_steps(frames)
    shares = frame_shares(cache.targets[::versions], task=task)
    head = build_recognizer(spec, channels=taps if spec.anonymizer == "set" else len(settings.statistics) * taps)
    if isinstance(head, GlobalRecognizer):
        first = torch.from_numpy(cache.features[::versions].astype(np.float32))
        with torch.no_grad():
            pooled = [pool_map(late(x), settings.statistics) for x in torch.split(first, settings.batch)]
        head.standardize_by(torch.cat(pooled))
    groups = [
        {"params": list(network.parameters()), "lr": rate}
        for network, rate in ((head, settings.learning_rate), (late, settings.learning_rate / 4))
        if any(True for _ in network.parameters())
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _warm_cosine(s, steps))
    trained = nn.ModuleList([late, head])
    average = torch.optim.swa_utils.AveragedModel(trained, avg_fn=running_average(settings.average))
    trained.train()
    batches = _batches(shares, settings.batch, rng)
    for step in range(steps):
        chosen = next(batches)
        at = chosen * versions + rng.integers(0, versions, len(chosen))
        x = torch.from_numpy(cache.features[at].astype(np.float32))
        y = torch.from_numpy(cache.targets[at].astype(np.float32))
        loss = recognition_loss(head(to_vectors(late(x), spec, settings.statistics)), y, task=task)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(trained)
        progress(f"fine-tuning, loss {loss.item():.3f}", step + 1, steps)
    trained.load_state_dict(average.module.state_dict())
    trained.eval()
    return head


def _batches(shares: NDArray[np.float64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Batches of frame numbers for ever: where all are drawn alike, each once before any is drawn again."""
    alike = bool(np.ptp(shares) == 0)
    order: list[int] = []
    while True:
        if alike and len(order) < size:
            order += rng.permutation(len(shares)).tolist()
        if alike:
            chosen, order = np.array(order[:size]), order[size:]
        else:
            chosen = rng.choice(len(shares), size, p=shares)
        yield chosen


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(50, steps // 10 + 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
