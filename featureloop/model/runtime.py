"""A package's networks in ONNX Runtime: what a device runs, without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from featureloop.core.ahead import cores
from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Float32, Recognition, UInt8
from featureloop.model.manifest import Calibration
from featureloop.model.package import EXTRACTOR, RECOGNIZER, Package
from featureloop.model.preprocess import to_input
from featureloop.model.reference import outlying
from featureloop.model.tasks import rules_of

SLOWER = ["SkipLayerNormFusion"]
"""Fusions of ONNX Runtime's that cost time on a CPU: this one ten times what the two operators take that it joins."""


def session_options(threads: int) -> Any:
    """ONNX Runtime's options for the CPU; `threads` 0 takes one per core.

    Threads sleep while they wait for work, instead of spinning: on a device they share the
    cores with decoding and sharing, and spinning would take half of them.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def open_session(path: Path, *, threads: int = 0) -> Any:
    """An ONNX Runtime session; `threads` as for `session_options`.

    Raises
    ------
    PackageError
        ONNX Runtime can't read the file.
    """
    options = session_options(threads)
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise PackageError(f"'{path.name}' is no network that ONNX Runtime can run: {str(error)[:200]}") from error


class Runtime:
    """Runs a package: pixels to feature map, position vectors to probabilities; any threads may call it at once.

    Attributes
    ----------
    package
        What it runs.
    at_once
        Frames that can be worked on at once, each with its own `threads` of the cores.
    heads
        What recognizes each of the package's tasks behind the one extractor, the first one (itself) first.
    """

    def __init__(self, package: Package, *, threads: int = 0, extractor: Any = None) -> None:
        views = package.views
        self.package = package
        self.at_once = max(1, cores() // threads) if threads else 1
        self._extractor = extractor or open_session(package.file(EXTRACTOR), threads=threads)
        self._recognizer = open_session(package.file(RECOGNIZER), threads=threads)
        self._image = self._extractor.get_inputs()[0].name
        self._vectors = self._recognizer.get_inputs()[0].name
        further = (Runtime(view, threads=threads, extractor=self._extractor) for view in views[1:])
        self.heads: tuple[Runtime, ...] = (self, *further)

    def extract(self, pixels: UInt8) -> Float32:
        """Position vectors float32 (N, C) in [-1, 1] of an RGB frame uint8 (H, W, 3), in the map's order.

        Raises
        ------
        PackageError
            The extractor's output is not what the manifest declares.
        InputError
            The extractor gives NaN or infinity for this frame.
        """
        return self.extract_input(to_input(pixels, self.package.manifest.preprocessing))

    def extract_input(self, image: Float32) -> Float32:
        """The same of a preprocessed image float32 (1, 3, S, S)."""
        spec = self.package.manifest.features
        out = self._extractor.run(None, {self._image: image})[0]
        if out.shape != (1, spec.channels, spec.grid, spec.grid):
            raise PackageError(f"the extractor gave {out.shape}, its manifest declares (1, C, G, G) of {spec}")
        if bad := int(out.size - np.isfinite(out).sum()):
            raise InputError(
                f"{bad} of {out.size} features that the package's extractor gives for it are NaN or infinite, so "
                "nothing can be recognized: look at the frame, and at another one under the same package"
            )
        return np.ascontiguousarray(out[0].reshape(spec.channels, -1).T)

    def logits(self, vectors: Float32) -> Float32:
        """Logits float32 (N, T) of released vectors float32 (N, C), any N."""
        out: Float32 = self._recognizer.run(None, {self._vectors: vectors[None]})[0][0]
        return out

    def recognize(self, vectors: Float32, calibration: Calibration | None = None) -> Recognition:
        """What the recognizer finds in released vectors float32 (N, C), as probabilities.

        Parameters
        ----------
        calibration
            None takes the package's.
        """
        manifest = self.package.manifest
        calibration = calibration or manifest.calibration
        found = rules_of(manifest).recognition(self.logits(vectors), calibration)
        if calibration.reference is None:
            return found
        return replace(found, outlying=outlying(vectors, calibration.reference, manifest.released))
