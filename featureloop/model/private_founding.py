"""Founding's stage for a neck that is trained: takes of the cached frames, the training, and what is still told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from featureloop.core.types import Frame, Task
from featureloop.model.early_cache import EarlyCache
from featureloop.model.founding_features import LateRun, Sampled, basis_transform, frame_shares
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.leak import Leak, fresh_leak
from featureloop.model.lesson import Surroundings
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import Neck, Transform
from featureloop.model.private_neck import on_taps, starting_neck, train_neck
from featureloop.model.takes import gather_takes, group_numbers


def found_private(
    late: nn.Module,
    sampled: Sampled,
    computed: Transform,
    sides: Sequence[tuple[Sequence[Frame], EarlyCache]],
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    around: Surroundings,
) -> tuple[Neck, tuple[int, ...], float, tuple[Leak, ...]]:
    """Train a neck against what it must not tell.

    Parameters
    ----------
    late
        Early features to joined taps, as tuned.
    computed
        The neck to begin from.
    sides
        The frames to learn from and the held ones, where there are some, each with the cache of all their versions.

    Returns
    -------
    tuple
        The neck on the joined taps, its levels, the bits of a position vector, and what the computed and the trained
        neck tell of the held frames.
    """
    basis = basis_transform(sampled)
    run = LateRun(nn.Sequential(late, _linear(basis)), sides[0][1], batch=settings.batch)
    versions = settings.augmentations + 1
    takes, *unseen = (
        gather_takes(run, cache, group_numbers(frames), versions=versions, seed=settings.seed, progress=around.progress)
        for frames, cache in sides
    )
    start = starting_neck(computed, basis, hidden=settings.adversary_hidden, seed=settings.seed)
    shares = frame_shares(sides[0][1].every(versions).targets, task=task)

    def leaks(neck: Neck, levels: Sequence[int], name: str) -> list[Leak]:
        """None where no frames are held."""
        return [
            fresh_leak(neck, levels, takes, held, spec, settings=settings, around=around, name=name) for held in unseen
        ]

    before = leaks(starting_neck(computed, basis, hidden=0, seed=settings.seed), computed.levels, "computed neck")
    made = train_neck(start, computed.levels, takes, spec, task=task, shares=shares, settings=settings, around=around)
    after = leaks(made.neck, made.levels, "trained neck")
    bits = made.bits if spec.anonymizer == "set" else computed.bits
    return on_taps(made.neck, basis), made.levels, bits, (*before, *after)


def _linear(basis: Transform) -> nn.Module:
    return basis.neck().transform
