"""The positive control: what the extractor's first layers see, in its order, from any extractor in ONNX."""

from __future__ import annotations

from typing import Any

from featureloop.model.package import EXTRACTOR, Package

FINEST, COARSEST = 2, 8
"""Input pixels between two positions of a shallow map: at least, at most."""


def shallow_session(package: Package) -> Any:
    """An ONNX Runtime session from the extractor's input to a map of its first layers.

    The first one of a stride from 4 to 8, else from 2; where a graph has none, the means of 4 x 4 pixels.
    """
    import onnx
    import onnxruntime

    from featureloop.model.runtime import session_options

    model = onnx.shape_inference.infer_shapes(onnx.load(str(package.file(EXTRACTOR))))
    size = package.manifest.preprocessing.size
    found = [(v, _stride(v, size)) for v in model.graph.value_info]
    order = {v: i for i, v in enumerate(o for node in model.graph.node for o in node.output)}
    maps = sorted(((order[v.name], v) for v, s in found if s and 4 <= s <= COARSEST and v.name in order), key=_first)
    maps += sorted(((order[v.name], v) for v, s in found if s and FINEST <= s < 4 and v.name in order), key=_first)
    del model.graph.output[:]
    if maps:
        model.graph.output.append(maps[0][1])
    else:
        _add_means(model.graph, size)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(0), providers=["CPUExecutionProvider"]
    )


def _add_means(graph: Any, size: int) -> None:
    from onnx import TensorProto, helper

    pool = helper.make_node("AveragePool", [graph.input[0].name], ["means"], kernel_shape=[4, 4], strides=[4, 4])
    graph.node.append(pool)
    graph.output.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 3, size // 4, size // 4]))


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def _stride(value: Any, size: int) -> int | None:
    """Input pixels between positions of a map (1, C, h, w); None for anything else."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if len(dims) != 4 or dims[1] < 8 or dims[2] < 2 or dims[2] != dims[3] or size % dims[2]:
        return None
    return int(size // dims[2])
