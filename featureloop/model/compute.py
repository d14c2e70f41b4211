"""Where a training calculates."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from featureloop.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a training calculates.

    Attributes
    ----------
    device
        A torch device: `cpu`, `cuda`, `cuda:1`.
    mixed
        Whether in bfloat16 where torch finds that safe, and else in float32.
    """

    device: str = "cpu"
    mixed: bool = False


CPU = Compute()


def compute_on(name: str) -> Compute:
    """A torch device by name; `auto` takes a GPU with mixed precision where there is one.

    For a GPU, torch is told to calculate alike every time where it can, and warns where it can't.

    Raises
    ------
    InputError
        There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"torch can't calculate on '{name}': {str(error)[:120]}; choose auto or cpu") from error
    if name.startswith("cuda"):
        _calculate_alike()
    return Compute(name, mixed=not name.startswith("cpu"))


def _calculate_alike() -> None:
    """What torch needs for algorithms on a GPU that give the same every time.

    https://docs.pytorch.org/docs/stable/notes/randomness.html; cuBLAS reads its setting when it is used first.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
