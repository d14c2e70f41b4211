"""A training's curves in the form that TensorBoard shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featureloop.core.errors import InputError
from featureloop.core.ports import Log, unlogged


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Log]:
    """What writes curves into a folder for `tensorboard --logdir`; None writes nothing.

    Raises
    ------
    InputError
        TensorBoard is not installed, or the folder can't be written.
    """
    if folder is None:
        yield unlogged
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard is not installed; run: pip install 'featureloop[tensorboard]'") from error
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise InputError(f"the curves can't be written to '{folder}': {error}; choose another --tensorboard") from error
    with writer:
        yield writer.add_scalar
