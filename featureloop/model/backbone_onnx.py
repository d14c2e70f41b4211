"""A backbone that is an ONNX file made elsewhere."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import compose, version_converter
from torch import nn

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Float32
from featureloop.model.backbones import Normalize, RunEarly, check_shape, check_size, run_session
from featureloop.model.export import OPSET, export_onnx
from featureloop.model.runtime import open_session

_DECLARATION = """\
onnx = "{name}"
channels = 1024  # of the feature map, the graph's first output
stride = 32  # pixels between its positions
inputs = 3  # 1 for the mean of red, green and blue
mean = [0.485, 0.456, 0.406]  # the graph's input is (pixel / 255 - mean) / std
std = [0.229, 0.224, 0.225]"""


@dataclass(frozen=True, slots=True, eq=False)
class OnnxBackbone:
    """An ONNX graph made elsewhere, with one image input and, first of its outputs, the feature map.

    Attributes
    ----------
    path
        The file.
    normalize
        What its input is.
    """

    name: str
    channels: int
    stride: int
    path: Path
    normalize: Normalize
    late: nn.Module = field(default_factory=nn.Identity)

    @property
    def whole(self) -> None:
        """A graph is kept as it is."""
        return

    def open_early(self, size: int) -> RunEarly:
        """The graph in ONNX Runtime, image by image: its batch may be fixed."""
        check_size(self, size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "early.onnx"
            onnx.save_model(self._with_normalization(size), str(path))
            session = open_session(path)

        def run(images: Float32) -> Float32:
            try:
                return np.concatenate([run_session(session, image[None]) for image in images])
            except Exception as error:  # ONNX Runtime's errors share no base class
                raise PackageError(
                    f"'{self.path.name}' doesn't take images of {size} x {size} pixels: {str(error)[:200]}"
                ) from error

        check_shape(self, run(np.zeros((1, 3, size, size), np.float32)).shape, size)
        return run

    def write_extractor(self, neck: nn.Module, path: Path, *, size: int) -> None:
        """Join the graph with the neck's."""
        with tempfile.TemporaryDirectory() as folder:
            after = Path(folder) / "neck.onnx"
            grid = size // self.stride
            chain = nn.Sequential(self.late, neck)
            export_onnx(
                chain, torch.zeros(1, self.channels, grid, grid), after, source="map", result="features", dynamic={}
            )
            joined = _join(self._with_normalization(size), onnx.load_model(str(after)), "image", "features")
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(joined, str(path))

    def _with_normalization(self, size: int) -> Any:
        """The graph with featureloop's input, named `image`, and the feature map alone as its output, `map`."""
        try:
            graph = onnx.load_model(str(self.path))
            onnx.checker.check_model(graph)
        except Exception as error:  # onnx raises errors of many kinds for a damaged file
            raise PackageError(f"'{self.path}' is no ONNX graph that can be used: {str(error)[:200]}") from error
        if _opset(graph) < OPSET:
            try:
                graph = version_converter.convert_version(graph, OPSET)
            except Exception as error:  # onnx raises errors of many kinds here too
                raise PackageError(
                    f"'{self.path}' is of opset {_opset(graph)} and can't be converted to {OPSET} "
                    f"({str(error)[:200]}): export it with opset {OPSET} or newer"
                ) from error
        del graph.graph.output[1:]
        with tempfile.TemporaryDirectory() as folder:
            before = Path(folder) / "normalize.onnx"
            export_onnx(
                self.normalize, torch.zeros(1, 3, size, size), before, source="image", result="scaled", dynamic={}
            )
            return _join(onnx.load_model(str(before)), graph, "image", "map")


def onnx_backbone(
    path: Path,
    *,
    channels: int,
    stride: int,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    inputs: int = 3,
) -> OnnxBackbone:
    """An ONNX file made elsewhere, kept as it is; parameters as for `module_backbone`.

    Raises
    ------
    PackageError
        It is no ONNX graph, or the declaration is impossible.
    """
    return OnnxBackbone(path.stem, channels, stride, path, Normalize(mean, std, inputs))


def _opset(graph: Any) -> int:
    """The version of ONNX's own operators that a graph is written in."""
    return max((int(o.version) for o in graph.opset_import if o.domain in ("", "ai.onnx")), default=OPSET)


def _join(first: Any, second: Any, source: str, result: str) -> Any:
    """Two graphs one after the other, with these names outside; the older one is converted to the newer's operators."""
    newest = max(_opset(first), _opset(second))
    first, second = (
        g if _opset(g) == newest else version_converter.convert_version(g, newest) for g in (first, second)
    )
    second.ir_version = first.ir_version = max(first.ir_version, second.ir_version)
    first, second = compose.add_prefix(first, "first/"), compose.add_prefix(second, "second/")
    weights = {w.name for w in second.graph.initializer}
    inputs = [i.name for i in second.graph.input if i.name not in weights]
    if len(inputs) != 1:
        raise PackageError(f"a backbone takes one image, not {len(inputs)} inputs")
    joined = compose.merge_models(first, second, io_map=[(first.graph.output[0].name, inputs[0])])
    names = {joined.graph.input[0].name: source, joined.graph.output[0].name: result}
    for value in (*joined.graph.input, *joined.graph.output):
        value.name = names.get(value.name, value.name)
    for node in joined.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    return joined


def read_backbone(path: Path) -> OnnxBackbone:
    """The backbone that a TOML file declares: `onnx`, `channels`, `stride`, and `inputs`, `mean`, `std` if they differ.

    Raises
    ------
    InputError
        The file is missing, malformed, or the network itself.
    PackageError
        The declaration is impossible.
    """
    if path.suffix.lower() == ".onnx":
        example = _DECLARATION.format(name=path.name)
        raise InputError(
            f"'{path}' is a network, and a backbone is named by a TOML file that declares one: write "
            f"'{path.with_suffix('.toml')}' with these lines (the numbers are an example), and name that\n{example}"
        )
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"'{path}' declares no backbone: {error}") from error
    kinds = {"onnx": str, "channels": int, "stride": int, "inputs": int, "mean": list, "std": list}
    if unknown := sorted(set(declared) - set(kinds)):
        raise InputError(f"'{path}' has unknown settings {unknown}; known are {', '.join(kinds)}")
    for name, kind in kinds.items():
        needed = name in {"onnx", "channels", "stride"}
        value = declared.get(name)
        if (value is None and needed) or (value is not None and type(value) is not kind):
            raise InputError(f"'{path}' must give {name} as {kind.__name__}, not {value!r}")
    inputs = declared.get("inputs", 3)
    try:
        mean, std = (
            tuple(float(v) for v in declared.get(name, [plain] * inputs))
            for name, plain in (("mean", 0.0), ("std", 1.0))
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"'{path}' must give mean and std as lists of numbers: {error}") from error
    if declared["channels"] < 1 or declared["stride"] < 1 or any(v <= 0 for v in std):
        raise InputError(f"'{path}': channels, stride and std must be positive")
    file = path.parent / declared["onnx"]
    return onnx_backbone(
        file, channels=declared["channels"], stride=declared["stride"], mean=mean, std=std, inputs=inputs
    )
