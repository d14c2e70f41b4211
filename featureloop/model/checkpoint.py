"""Where a training that is killed goes on from: a folder beside the package that it makes.

It holds the early features as memory-mapped arrays, and each lesson's state as
safetensors (no pickle); it says which training it belongs to, and is removed
when the package is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from featureloop.core.errors import InputError, StorageError
from featureloop.core.types import Frame, Task
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Lesson, State
from featureloop.model.package import write_atomically

NAME = "training.json"
FORMAT = 4
EVERY_S = 20.0
"""Seconds between two savings of a lesson that goes on; its end is always saved."""


class Checkpoint:
    """A folder of a training's state.

    Parameters
    ----------
    path
        The folder; made where it is missing.
    fingerprint
        Of the training, as `fingerprint` gives it.
    every_s
        Seconds between two savings of a lesson that goes on.

    Raises
    ------
    InputError
        The folder holds another training.
    StorageError
        It can't be written.
    """

    def __init__(self, path: Path, fingerprint: str, *, every_s: float = EVERY_S) -> None:
        self.path = path
        self._every_s = every_s
        self._saved = time.monotonic()
        said = {"format": FORMAT, "training": fingerprint}
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / NAME).exists():
                write_atomically(path / NAME, json.dumps(said).encode())
            found = json.loads((path / NAME).read_text())
        except (OSError, ValueError) as error:
            raise StorageError(f"the checkpoint '{path}' can't be used: {error}; remove it or free the disk") from error
        if found != said:
            raise InputError(
                f"'{path}' holds another training that was not finished (other images or settings); remove it, or "
                "choose another --out"
            )

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """A memory-mapped array of this name, zeros where it is new.

        Raises
        ------
        StorageError
            The disk has no room for it.
        """
        path = self.path / f"{name}.npy"
        try:
            if path.exists():
                return np.lib.format.open_memmap(path, mode="r+")
            room, needed = shutil.disk_usage(self.path).free, int(np.prod(shape)) * np.dtype(dtype).itemsize
            if room < needed:
                raise StorageError(
                    f"the training needs {needed / 1e6:.0f} MB in '{self.path}', {room / 1e6:.0f} MB are free; "
                    "free some, or choose another --out"
                )
            return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        except (OSError, ValueError) as error:
            raise StorageError(f"'{path}' can't be used: {error}; remove '{self.path}' or free the disk") from error

    def count(self, name: str) -> int:
        """A number that was set; 0 where it was not."""
        path = self.path / f"{name}.count"
        return int(path.read_text()) if path.exists() else 0

    def set_count(self, name: str, value: int) -> None:
        """Keep a number."""
        write_atomically(self.path / f"{name}.count", str(value).encode())

    def save(self, lesson: Lesson, state: State, *, ended: bool) -> None:
        """Keep a lesson's state, where it has ended or some time has passed since the last saving.

        Raises
        ------
        StorageError
            The disk is full.
        """
        if not ended and time.monotonic() - self._saved < self._every_s:
            return
        tensors = {f"network.{k}": p.detach() for k, p in lesson.networks.named_parameters()}
        tensors |= {f"average.{k}": v for k, v in state.average.items()}
        tensors |= {f"best.{k}": v for k, v in state.best.items()}
        tensors["losses"] = torch.from_numpy(state.best_losses)
        for i, kept in state.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in kept.items()}
        place = self._place(lesson)
        try:
            work = place.with_suffix(".new")
            plain = {k: v.cpu().contiguous() for k, v in tensors.items()}
            save_file(plain, work, {"step": str(state.step), "worse": str(state.worse)})
            work.replace(place)
            self._saved = time.monotonic()
        except (OSError, SafetensorError) as error:
            raise StorageError(f"the checkpoint '{place}' can't be written: {error}; free the disk") from error

    def restore(self, lesson: Lesson, state: State) -> State:
        """What was kept of a lesson; its weights and moments are put back in place.

        Raises
        ------
        StorageError
            It is damaged.
        """
        place = self._place(lesson)
        if not place.exists():
            return state
        try:
            with safe_open(place, framework="pt") as file:
                said, found = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  No dict.
        except (OSError, SafetensorError) as error:
            raise StorageError(f"the checkpoint '{place}' is damaged: {error}; remove '{self.path}'") from error

        def part(name: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(name): v for k, v in found.items() if k.startswith(name)}

        with torch.no_grad():
            for name, p in lesson.networks.named_parameters():
                p.copy_(found[f"network.{name}"])
                state.average[name].copy_(found[f"average.{name}"])
        state.best = {k: v.to(state.average[k]) for k, v in part("best.").items()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in part("optimizer.").items():
            i, _, name = key.partition(".")
            moments.setdefault(int(i), {})[name] = value
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
        state.best_losses, state.step, state.worse = found["losses"].numpy(), int(said["step"]), int(said["worse"])
        return state

    def remove(self) -> None:
        """Remove the folder: the training is finished."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _place(self, lesson: Lesson) -> Path:
        return self.path / f"{lesson.name.replace(' ', '-')}.safetensors"


def checkpoint_path(package: Path) -> Path:
    """Where the checkpoint of a package's training is: beside it."""
    return package.with_name(f"{package.name}.checkpoint")


def open_checkpoint(
    package: Path,
    frames: Sequence[Frame],
    *,
    tasks: Sequence[tuple[Task, Sequence[str]]],
    settings: FoundingSettings,
    backbone: str,
) -> Checkpoint:
    """The checkpoint of the training that makes a package of these frames; errors as of `Checkpoint`.

    Parameters
    ----------
    tasks
        Each with its class names, in their order.
    """
    follows = fingerprint(frames, tasks=tasks, settings=settings, backbone=backbone)
    return Checkpoint(checkpoint_path(package), follows)


def fingerprint(
    frames: Sequence[Frame], *, tasks: Sequence[tuple[Task, Sequence[str]]], settings: FoundingSettings, backbone: str
) -> str:
    """What a training follows from, as hexadecimal digits: its frames with their truths, and its settings."""
    digest = hashlib.sha256()
    said = {"tasks": [(str(task), list(classes)) for task, classes in tasks], "backbone": backbone, **asdict(settings)}
    digest.update(json.dumps(said, sort_keys=True).encode())
    for frame in frames:
        digest.update(f"{frame.name}:{frame.index}:{frame.pixels.shape}".encode())
        digest.update(frame.pixels.tobytes())
        truth = frame.truth
        if truth is not None:
            digest.update(repr((truth.label, truth.boxes, truth.labels)).encode())
            if truth.mask is not None:
                digest.update(np.packbits(truth.mask).tobytes())
    return digest.hexdigest()
