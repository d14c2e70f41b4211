"""Torch networks to ONNX files that run without torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from featureloop.core.errors import PackageError

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

    Raises
    ------
    PackageError
        The module does something that ONNX can't say.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = ({axis: torch.export.Dim(name) for axis, name in dynamic.items()},) if dynamic else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter warns of its own internals; the exported graph is checked against torch by a test.
        warnings.simplefilter("ignore")
        try:
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
        except OSError:
            raise
        except Exception as error:  # the exporter's errors share no base class
            first = _first_of(error)
            raise PackageError(
                f"the network can't be written as ONNX ({type(first).__name__}: {str(first)[:200]})"
            ) from error


def _first_of(error: BaseException) -> BaseException:
    """What an error was first raised for."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
