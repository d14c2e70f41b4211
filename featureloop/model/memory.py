"""Where a GPU's memory ends: work in smaller parts, and a clear error where that is no help."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from featureloop.core.errors import InputError

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


def in_parts(work: Callable[[int], _Result], *, parts: int, items: int) -> tuple[_Result, int]:
    """Do `work(parts)`, and again in twice as many parts whenever the memory ends.

    Parameters
    ----------
    parts
        To begin with.
    items
        The most parts that there can be.

    Returns
    -------
    result, parts
        What the work gave, and the parts that did it.

    Raises
    ------
    InputError
        Not even a single item fits.
    """
    while True:
        try:
            return work(parts), parts
        except torch.OutOfMemoryError as error:
            if parts >= items:
                raise too_small("one frame", error) from error
        parts = min(2 * parts, items)
        _log.warning("the GPU's memory is too small for %d frames at once; going on in %d parts", items, parts)


@contextmanager
def enough_for(what: str) -> Iterator[None]:
    """Work that can't be done in parts.

    Raises
    ------
    InputError
        The memory ended.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise too_small(what, error) from error


def too_small(what: str, error: torch.OutOfMemoryError) -> InputError:
    """What to do where the memory is too small for `what`."""
    return InputError(
        f"the GPU's memory is too small for {what} ({str(error)[:80]}); choose a smaller --size, or --compute cpu"
    )
