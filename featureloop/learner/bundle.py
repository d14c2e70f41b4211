"""A package as a MONAI Bundle: the package itself, unchanged, with the configuration that MONAI's commands read.

Needs torch; a device does not. Layout::

    configs/metadata.json    what goes in and comes out of the whole network
    configs/inference.json   `network_def`, for MONAI's ConfigParser
    docs/README.md           the model card
    models/package           the package as it was, signature included
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featureloop.core.errors import InputError, PackageError, StorageError
from featureloop.core.types import Float32, Recognition, Task
from featureloop.model.manifest import Manifest
from featureloop.model.package import CARD, METADATA, Package, load_package, monai_metadata
from featureloop.model.preprocess import rows_to_cells
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors

INFERENCE = "configs/inference.json"
INSIDE = "models/package"


class PackageNetwork(nn.Module):
    """A package's extractor and recognizer as one torch module, run by ONNX Runtime.

    Parameters
    ----------
    path
        The package's directory.
    task
        Which of its tasks is recognized; the first one where empty.
    """

    def __init__(self, path: str, task: str = "") -> None:
        super().__init__()
        package = load_package(Path(path))
        self.runtime = Runtime(package.view(Task(task or package.manifest.task)))

    def forward(self, image: Tensor) -> Tensor:
        """Preprocessed images float32 (B, 3, S, S) to results.

        Returns
        -------
        Tensor
            Float32 probabilities: (B, K) of the labels for classification, (B, 1, 4 G, 4 G) of a
            lesion for segmentation; (B, K + 4, G, G) of the labels, with coded distances, for detection.
        """
        results = [self._one(x) for x in image.cpu().numpy()]
        return torch.from_numpy(np.stack(results)).to(image.device)

    def _one(self, image: Float32) -> Float32:
        manifest = self.runtime.package.manifest
        vectors = self.runtime.extract_input(image[None])
        found = self.runtime.recognize(release_vectors(vectors, manifest.released))
        return as_picture(found, manifest.features.grid)


def as_picture(found: Recognition, grid: int) -> Float32:
    """A recognition with its coordinates: (K,), (1, 4 grid, 4 grid) or (K + 4, grid, grid), by its task."""
    if found.task in {Task.CLASSIFICATION, Task.MULTILABEL}:
        return np.asarray(found.probabilities[0], np.float32)
    if found.task is Task.SEGMENTATION:
        return np.asarray(rows_to_cells(found.probabilities, grid)[None], np.float32)
    if found.distances is None:
        raise PackageError("a detection without distances can't be drawn")
    rows = np.concatenate([found.probabilities, found.distances], axis=1)
    return np.ascontiguousarray(rows.T.reshape(-1, grid, grid), np.float32)


def export_bundle(package: Package, out: Path) -> None:
    """Write a package as a MONAI Bundle into the new directory `out`.

    Parameters
    ----------
    package
        The whole package is inside; the bundle's network recognizes its first task, or that of a view.

    Raises
    ------
    InputError
        `out` exists.
    StorageError
        It can't be written.
    """
    if out.exists():
        raise InputError(f"'{out}' exists already; choose another directory or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            work = Path(folder) / "bundle"
            shutil.copytree(package.path, work / INSIDE)
            for name, content in _configs(package).items():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                (work / name).write_text(json.dumps(content, indent=1))
            (work / CARD).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.file(CARD), work / CARD)
            work.rename(out)
    except OSError as error:
        raise StorageError(f"the bundle can't be written to '{out}': {error}") from error


def import_bundle(bundle: Path, out: Path) -> Package:
    """Take the package out of a bundle that `export_bundle` made; every digest is checked.

    Raises
    ------
    PackageError
        The bundle holds no package, or a damaged one.
    InputError
        `out` exists.
    StorageError
        It can't be written.
    """
    if not (bundle / INSIDE).is_dir():
        raise PackageError(
            f"'{bundle}' holds no package of featureloop; a network of another origin becomes one "
            "by 'model train --backbone', which takes the bundle's directory"
        )
    load_package(bundle / INSIDE)
    if out.exists():
        raise InputError(f"'{out}' exists already; choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            work = Path(folder) / "package"
            shutil.copytree(bundle / INSIDE, work)
            work.rename(out)
    except OSError as error:
        raise StorageError(f"the package can't be written to '{out}': {error}") from error
    return load_package(out)


def _configs(package: Package) -> Mapping[str, Any]:
    manifest = package.manifest
    metadata = dict(monai_metadata(manifest))
    formats = dict(metadata["network_data_format"])
    formats["outputs"] = {"pred": _output(manifest)}
    metadata |= {
        "changelog": {manifest.version: "exported"},
        "required_packages_version": {"onnxruntime": "1.20.0", "featureloop": "0.1.0"},
        "intended_use": "Research. Not a medical device.",
        "network_data_format": formats,
    }
    network = {"_target_": "featureloop.learner.bundle.PackageNetwork", "path": f"$@bundle_root + '/{INSIDE}'"}
    if package.head:
        network["task"] = package.head
    return {METADATA: metadata, INFERENCE: {"bundle_root": ".", "network_def": network}}


def _output(manifest: Manifest) -> Mapping[str, Any]:
    grid, labels = manifest.features.grid, dict(enumerate(manifest.labels))
    shape, channels, kind = {
        Task.CLASSIFICATION: ([], labels, "classification"),
        Task.MULTILABEL: ([], labels, "multilabel classification"),
        Task.SEGMENTATION: ([4 * grid, 4 * grid], {0: manifest.labels[0]}, "segmentation"),
        Task.DETECTION: (
            [grid, grid],
            labels | dict(enumerate(("left", "top", "right", "bottom"), len(labels))),
            "detection",
        ),
    }[Task(manifest.task)]
    return {
        "type": "probabilities",
        "format": kind,
        "num_channels": len(channels),
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {str(k): v for k, v in channels.items()},
    }
