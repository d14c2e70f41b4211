"""Tuning a backbone under a recognizer of its joined taps: the late part from cached features, or all from pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.model.augment import augment, augmentation_for
from featureloop.model.backbones import Backbone, check_whole
from featureloop.model.early_cache import EarlyCache, square_truth
from featureloop.model.fit import batches_of
from featureloop.model.founding_features import LateRun, frame_shares, map_to_rows, pool_map, to_vectors
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Batch, Draw, Lesson, Pace, Surroundings
from featureloop.model.local_context import LocalHead
from featureloop.model.loop import train
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.memory import enough_for, in_parts
from featureloop.model.preprocess import resize_frame, to_input
from featureloop.model.recognizers import GlobalRecognizer
from featureloop.model.tasks import RULES, true_rows

TUNED_RATE = 0.25
"""The backbone's learning rate, as a share of the recognizer's."""


def tune_late(
    backbone: Backbone,
    head: nn.Module,
    spec: RecognizerSpec,
    cache: EarlyCache,
    held: EarlyCache | None,
    *,
    task: Task,
    settings: FoundingSettings,
    around: Surroundings,
) -> None:
    """Tune the late part and its recognizer `head` in place, on random versions of the cached frames."""
    seen = _Cached(cache, settings, task=task)
    kept = [] if held is None else [seen.of(held, at) for at in batches_of(len(held), settings.batch)]
    originals = (seen.of(cache, seen.originals[at]).x for at in batches_of(seen.frames, settings.batch))
    _standardize(head, backbone.late, originals, settings, around)
    lesson = _lesson(backbone.late, head, spec, task=task, settings=settings, batch=seen, held=kept)
    train(lesson, pace=_pace(settings, seen.frames), around=around)


def learn_context(
    head: LocalHead,
    taps: LateRun,
    cache: EarlyCache,
    held: EarlyCache | None,
    *,
    task: Task,
    settings: FoundingSettings,
    around: Surroundings,
) -> None:
    """Train local context in place, on the `taps` of random versions of the cached frames, which stay as they are."""
    seen = _Cached(cache, settings, task=task, through=taps)
    kept: Iterable[Batch] = [] if held is None else _Held(seen, held, settings.batch)
    head.context.standardize_by(taps.over(cache, seen.originals, what="taps", progress=around.progress))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return recognition_loss(head(map_to_rows(x)).float(), y, task=task)

    lesson = Lesson("neighbours", head, [(head, settings.learning_rate)], seen, loss, kept)
    pace = Pace(settings.recognizer_steps(seen.frames), settings.average, settings.seed)
    train(lesson, pace=pace, around=around)


class _Cached:
    """Batches of random versions of cached frames: early features, or what follows `through` them.

    Attributes
    ----------
    originals
        intp (frames,), the cache's rows of frames without changes.
    """

    def __init__(
        self, cache: EarlyCache, settings: FoundingSettings, *, task: Task, through: LateRun | None = None
    ) -> None:
        self._cache, self._versions = cache, settings.augmentations + 1
        self.originals = np.arange(0, len(cache), self._versions)
        self.frames = len(self.originals)
        shares = frame_shares(cache.targets[self.originals], task=task)
        self._draw, self._through = Draw(shares, size=settings.batch, seed=settings.seed), through

    def __call__(self, step: int) -> Batch:
        at = self._draw(step) * self._versions
        return self.of(self._cache, at + self._draw.random(step).integers(0, self._versions, len(at)))

    def of(self, cache: EarlyCache, at: NDArray[np.intp]) -> Batch:
        """Chosen rows of a cache."""
        early = cache.features[at]
        x = early.astype(np.float32) if self._through is None else self._through.maps(early)
        return Batch(x, cache.targets[at].astype(np.float32), np.ones(len(at), np.float32))


class _Held:
    """Batches of held frames, made when they are asked for: the taps of many frames would take much memory."""

    def __init__(self, seen: _Cached, held: EarlyCache, size: int) -> None:
        self._seen, self._held, self._at = seen, held, batches_of(len(held), size)

    def __iter__(self) -> Iterator[Batch]:
        return (self._seen.of(self._held, at) for at in self._at)


def tune_whole(
    backbone: Backbone,
    head: nn.Module,
    spec: RecognizerSpec,
    frames: Sequence[Frame],
    held: Sequence[Frame],
    *,
    task: Task,
    classes: int,
    settings: FoundingSettings,
    around: Surroundings,
) -> None:
    """Tune the whole backbone and its recognizer `head` in place, every frame changed anew in every pass.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs, or the backbone can't be tuned as a whole.
    PackageError
        The backbone doesn't make what it declares.
    """
    whole = backbone.whole
    if whole is None:
        raise InputError(f"the backbone '{backbone.name}' can't be tuned; train with the profile fast")
    check_whole(backbone, whole, settings.size)
    squares = Squares(frames, task=task, classes=classes, settings=settings, stride=backbone.stride)
    draw = Draw(frame_shares(squares.truths(), task=task), size=settings.batch, seed=settings.seed)
    others = Squares(held, task=task, classes=classes, settings=settings, stride=backbone.stride)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="augment"))
        ahead = _Ahead(pool, squares, draw)
        kept = [others.batch(at) for at in batches_of(len(held), settings.batch)]
        originals = (squares.batch(at).x for at in batches_of(len(frames), settings.batch))
        _standardize(head, whole, originals, settings, around)
        lesson = _lesson(whole, head, spec, task=task, settings=settings, batch=ahead, held=kept)
        train(lesson, pace=_pace(settings, len(frames)), around=around)


class Squares:
    """Frames at the extractor's input size, in memory as uint8, with their rows of targets."""

    def __init__(
        self, frames: Sequence[Frame], *, task: Task, classes: int, settings: FoundingSettings, stride: int
    ) -> None:
        self._preprocessing = settings.preprocessing
        self._augmentation = augmentation_for(frames, settings.augmentation)
        self._rules, self._classes, self._grid = RULES[task], classes, settings.size // stride
        self._pixels = [resize_frame(f.pixels, settings.size) for f in frames]
        self._squares = [square_truth(f, settings.size) for f in frames]
        self._rows = [true_rows(f, task=task, labels=classes, grid=self._grid) for f in frames]

    def truths(self) -> UInt8:
        """The rows of all frames, uint8 (M, N, T)."""
        return np.stack(self._rows)

    def changed(self, i: int, seed: int) -> tuple[Float32, UInt8]:
        """A changed version of a frame as the extractor's input float32 (1, 3, S, S), and its rows."""
        pixels, moved = augment(self._pixels[i], self._squares[i], np.random.default_rng(seed), by=self._augmentation)
        rows = self._rules.truth_rows(moved, labels=self._classes, grid=self._grid)
        return to_input(pixels, self._preprocessing), self._rows[i] if rows is None else rows

    def batch(self, at: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.intp]]) -> Batch:
        """Some of the frames, unchanged."""
        return joined([(to_input(self._pixels[i], self._preprocessing), self._rows[i]) for i in at])


def joined(items: Sequence[tuple[Float32, UInt8]]) -> Batch:
    """Inputs float32 (1, 3, S, S) and their rows as one batch."""
    y = np.stack([rows for _, rows in items]).astype(np.float32)
    return Batch(np.concatenate([x for x, _ in items]), y, np.ones(len(items), np.float32))


class _Ahead:
    """Batches of changed frames, the next one made while a step is calculated."""

    def __init__(self, pool: ThreadPoolExecutor, squares: Squares, draw: Draw) -> None:
        self._pool, self._squares, self._draw = pool, squares, draw
        self._next: tuple[int, list[Future[tuple[Float32, UInt8]]]] | None = None

    def __call__(self, step: int) -> Batch:
        waiting = self._next[1] if self._next and self._next[0] == step else self._start(step)
        self._next = step + 1, self._start(step + 1)
        return joined([future.result() for future in waiting])

    def _start(self, step: int) -> list[Future[tuple[Float32, UInt8]]]:
        at = self._draw(step)
        seeds = self._draw.random(step).integers(0, 2**62, len(at))
        return [self._pool.submit(self._squares.changed, int(i), int(s)) for i, s in zip(at, seeds, strict=True)]


def _standardize(
    head: nn.Module, network: nn.Module, inputs: Iterable[Float32], settings: FoundingSettings, around: Surroundings
) -> None:
    """Let a recognizer of pooled vectors know the vectors that it will get at first."""
    if not isinstance(head, GlobalRecognizer):
        return
    device, parts, pooled = around.compute.device, 1, []
    with enough_for("the backbone"):
        network.to(device).eval()

    def maps(x: Float32, parts: int) -> Tensor:
        pieces = np.array_split(x, min(parts, len(x)))
        return torch.cat([pool_map(network(torch.from_numpy(p).to(device)).cpu(), settings.statistics) for p in pieces])

    with torch.no_grad():
        for x in inputs:
            found, parts = in_parts(partial(maps, x), parts=parts, items=len(x))
            pooled.append(found)
    head.standardize_by(torch.cat(pooled))


def _lesson(
    network: nn.Module,
    head: nn.Module,
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    batch: Callable[[int], Batch],
    held: Sequence[Batch],
) -> Lesson:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return recognition_loss(head(to_vectors(network(x), spec, settings.statistics)).float(), y, task=task)

    rates = [(head, settings.learning_rate), (network, TUNED_RATE * settings.learning_rate)]
    return Lesson("fine-tuning", nn.ModuleList([network, head]), rates, batch, loss, held)


def _pace(settings: FoundingSettings, frames: int) -> Pace:
    return Pace(settings.tuning_steps(frames), settings.average, settings.seed)
