"""Opening the review of a device: its file and key, in the device's directory."""

from __future__ import annotations

from featureloop.device.review.queue import ReviewQueue
from featureloop.device.review.sealed import load_key
from featureloop.device.state import DeviceState


def open_queue(state: DeviceState, *, readers: int = 1) -> ReviewQueue:
    """The review's queue of a device.

    Raises
    ------
    StorageError
        Its file or its key can't be used.
    """
    return ReviewQueue(state.path / "review.sqlite", key=load_key(state.path / "review.key"), readers=readers)
