"""The positive control: what the extractor's first layers see, in its order, from any extractor in ONNX."""

from __future__ import annotations

from typing import Any

from featureloop.model.package import EXTRACTOR, Package

FINEST, COARSEST = 2, 8
"""Input pixels between two positions of a shallow map: at least, at most."""


def shallow_name(package: Package) -> str | None:
    """The name of the value in the extractor's graph that is such a map; None where there is none.

    The first one of a stride from 4 to 8, else from 2.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(package.file(EXTRACTOR)))).graph
    size = package.manifest.preprocessing.size
    order = {o: i for i, o in enumerate(o for node in graph.node for o in node.output)}
    strides = [(order[v.name], v.name, s) for v in graph.value_info if v.name in order and (s := _stride(v, size))]
    for least, most in ((4, COARSEST), (FINEST, 3)):
        if found := [(at, name) for at, name, s in strides if least <= s <= most]:
            return str(min(found)[1])
    return None


def shallow_session(package: Package) -> Any:
    """An ONNX Runtime session from the extractor's input to a map of its first layers.

    Where its graph has none (`shallow_name`), to the means of 4 x 4 pixels.
    """
    import onnx
    import onnxruntime

    from featureloop.model.runtime import session_options

    model, name = onnx.load(str(package.file(EXTRACTOR))), shallow_name(package)
    del model.graph.output[:]
    if name is None:
        _add_means(model.graph, package.manifest.preprocessing.size)
    else:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )


def _add_means(graph: Any, size: int) -> None:
    from onnx import TensorProto, helper

    pool = helper.make_node("AveragePool", [graph.input[0].name], ["means"], kernel_shape=[4, 4], strides=[4, 4])
    graph.node.append(pool)
    graph.output.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 3, size // 4, size // 4]))


def _stride(value: Any, size: int) -> int | None:
    """Input pixels between positions of a map (1, C, h, w); None for anything else."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    if len(dims) != 4 or dims[1] < 8 or dims[2] < 2 or dims[2] != dims[3] or size % dims[2]:
        return None
    return int(size // dims[2])
