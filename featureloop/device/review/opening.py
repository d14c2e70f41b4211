"""Opening a device's review: its queue and its users, in the device's directory."""

from __future__ import annotations

from featureloop.device.pages.accounts import Accounts
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.review.sealed import load_key
from featureloop.device.state import DeviceState
from featureloop.sharing.policy import Policy


def open_queue(state: DeviceState, policy: Policy) -> ReviewQueue:
    """The queue of a device's doubtful results.

    Raises
    ------
    StorageError
        Its file or its key can't be used.
    """
    key = load_key(state.path / "review.key")
    return ReviewQueue(state.path / "review.sqlite", key=key, readers=policy.review.readers)


def open_accounts(state: DeviceState) -> Accounts:
    """Who may use a device's pages.

    Raises
    ------
    StorageError
        The file can't be used.
    """
    return Accounts(state.path / "users.sqlite")
