"""Torch networks to ONNX files that run without torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

OPSET = 18


def export_onnx(
    module: nn.Module, example: torch.Tensor, path: Path, *, source: str, result: str, dynamic: dict[int, str]
) -> None:
    """Write `module` as one self-contained ONNX file.

    Parameters
    ----------
    example
        An input of the shape that the module takes.
    source, result
        Names of the graph's input and output.
    dynamic
        Input axes whose length is free, with their names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = ({axis: torch.export.Dim(name) for axis, name in dynamic.items()},) if dynamic else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter warns of its own internals; the exported graph is checked against torch by a test.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            str(path),
            input_names=[source],
            output_names=[result],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
