"""A package's extractor as a torch module, so that an attacker who holds it can follow its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from featureloop.core.errors import PackageError
from featureloop.model.package import EXTRACTOR, Package

Operator = Callable[[list[Any], Mapping[str, Any]], Any]


class Differentiable(nn.Module):
    """An extractor's graph: an image float32 (B, 3, S, S) to its map (B, C, G, G).

    Parameters
    ----------
    until
        Name of the value to stop at; None for the graph's own result.

    Raises
    ------
    PackageError
        The graph has an operator that is not known here.
    """

    def __init__(self, package: Package, *, until: str | None = None) -> None:
        import onnx
        from onnx import numpy_helper

        super().__init__()
        graph = onnx.load(str(package.file(EXTRACTOR))).graph
        self._source, self._result = graph.input[0].name, until or graph.output[0].name
        self._constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        floats = {k: v.copy() for k, v in self._constants.items() if v.dtype == np.float32}
        self._weights = {k: _fast(torch.from_numpy(v)) for k, v in floats.items()}
        value = onnx.helper.get_attribute_value
        self._nodes = [
            (n.op_type, list(n.input), list(n.output), {a.name: value(a) for a in n.attribute}) for n in graph.node
        ]
        if unknown := sorted({kind for kind, *_ in self._nodes} - set(_OPERATORS)):
            raise PackageError(f"the extractor has operators whose gradient is not known here: {', '.join(unknown)}")

    def forward(self, image: Tensor) -> Tensor:
        """Run the graph, one node after the other."""
        values: dict[str, Any] = {self._source: _fast(image)}
        for kind, inputs, outputs, attributes in self._nodes:
            given = [self._value(values, name) for name in inputs]
            values[outputs[0]] = _OPERATORS[kind](given, attributes)
            if outputs[0] == self._result:
                break
        found: Tensor = values[self._result]
        return found

    def _value(self, values: Mapping[str, Any], name: str) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        return self._weights.get(name, self._constants[name])


def _fast(x: Tensor) -> Tensor:
    """A copy in the memory order in which convolutions are fastest on a CPU."""
    return x.clone(memory_format=torch.channels_last if x.ndim == 4 else torch.preserve_format)


def _conv(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    image, weight, bias = (*x, None)[:3]
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    even = (top, left) == (bottom, right)
    return functional.conv2d(
        image if even else functional.pad(image, (left, right, top, bottom)),
        weight,
        bias,
        stride=tuple(a.get("strides", (1, 1))),
        padding=(top, left) if even else 0,
        dilation=tuple(a.get("dilations", (1, 1))),
        groups=a.get("group", 1),
    )


def _clip(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    low, high = (None if v is None else float(v) for v in (*x[1:], None, None)[:2])
    image: Tensor = x[0]
    return image.clamp(a.get("min", low), a.get("max", high))


def _resize(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    image: Tensor = x[0]
    sizes = x[3] if len(x) > 3 and x[3] is not None else None
    size = tuple(int(s) for s in (sizes[2:] if sizes is not None else np.array(image.shape[2:]) * np.asarray(x[2])[2:]))
    if a.get("mode", b"nearest") == b"nearest":
        return functional.interpolate(image, size=size, mode="nearest")
    return functional.interpolate(image, size=size, mode="bilinear", align_corners=False)


def _average(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    image = functional.pad(x[0], (left, right, top, bottom))
    return functional.avg_pool2d(image, tuple(a["kernel_shape"]), tuple(a.get("strides", a["kernel_shape"])))


def _largest(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    image = functional.pad(x[0], (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(image, tuple(a["kernel_shape"]), tuple(a.get("strides", a["kernel_shape"])))


def _normalized(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    image, scale, shift, mean, variance = x
    return functional.batch_norm(image, mean, variance, scale, shift, eps=a.get("epsilon", 1e-5))


def _reshaped(x: list[Any], _: Mapping[str, Any]) -> Tensor:
    image: Tensor = x[0]
    return image.reshape([int(s) or image.shape[i] for i, s in enumerate(x[1])])


def _padded(x: list[Any], a: Mapping[str, Any]) -> Tensor:
    """Rows and columns around a map."""
    image: Tensor = x[0]
    mode = a.get("mode", b"constant")
    if mode not in _PADDINGS or len(x) > 3:
        raise PackageError("the extractor pads in a way whose gradient is not known here")
    (_, _, top, left), (_, _, bottom, right) = np.asarray(x[1], int).reshape(2, 4).tolist()
    around = (left, right, top, bottom)
    if mode == b"constant":
        return functional.pad(image, around, value=float(x[2]) if len(x) > 2 and x[2] is not None else 0.0)
    return functional.pad(image, around, mode=_PADDINGS[mode])


_PADDINGS = {b"constant": "constant", b"edge": "replicate", b"reflect": "reflect"}
_OPERATORS: Mapping[str, Operator] = {
    "Add": lambda x, _: x[0] + x[1],
    "AveragePool": _average,
    "BatchNormalization": _normalized,
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(x, dim=a["axis"]),
    "Conv": _conv,
    "GlobalAveragePool": lambda x, _: x[0].mean((2, 3), keepdim=True),
    "Identity": lambda x, _: x[0],
    "InstanceNormalization": lambda x, a: functional.instance_norm(
        x[0], weight=x[1], bias=x[2], eps=a.get("epsilon", 1e-5)
    ),
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
    "MaxPool": _largest,
    "Mul": lambda x, _: x[0] * x[1],
    "Pad": _padded,
    "Relu": lambda x, _: x[0].relu(),
    "Reshape": _reshaped,
    "Resize": _resize,
    "Sigmoid": lambda x, _: x[0].sigmoid(),
    "Sub": lambda x, _: x[0] - x[1],
    "Tanh": lambda x, _: x[0].tanh(),
    "Transpose": lambda x, a: x[0].permute(*a["perm"]),
}
