"""The review of a device, opened as one: its queue, who may log in, its pages, and what settles the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from featureloop.device.left import Shelf, WhatLeft
from featureloop.device.outbox import Outbox
from featureloop.device.pages.app import Parts, create_app
from featureloop.device.pages.left import Left
from featureloop.device.pages.live import Live
from featureloop.device.pages.server import HOST, PORT, PageServer
from featureloop.device.review.opening import open_accounts
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.review.settle import Settling
from featureloop.device.state import DeviceState
from featureloop.device.update_thread import Setup
from featureloop.sharing.policy import Policy

_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Listen:
    """Where pages are served.

    Attributes
    ----------
    port
        0 takes a free one; None the usual one, or a free one where that is in use.
    host
        127.0.0.1, where only this machine comes in, unless the site chose another address.
    names
        Host names that browsers may ask for besides 127.0.0.1 and localhost.
    """

    port: int | None = None
    host: str = HOST
    names: tuple[str, ...] = ()


@contextmanager
def pages_served(
    queue: ReviewQueue,
    *,
    state: DeviceState,
    policy: Policy,
    outbox: Outbox,
    site: str,
    using: Callable[[], Setup],
    live: Live,
    listen: Listen,
    tell: Callable[[str], None],
) -> Iterator[str]:
    """Serve the pages and settle the answers; gives the pages' address.

    Parameters
    ----------
    using
        Gives what recognizes and provides at the moment.
    live
        What the live page shows, with the sharing and its switch.

    Raises
    ------
    StorageError
        The address can't be listened on, or the users' file can't be used.
    """
    settling = Settling(
        queue,
        using=using,
        outcome=outbox.outcome,
        tell=tell,
        may_share=live.sharing.switch.is_on,
        undo_s=float(policy.review.undo_seconds),
        retention_days=policy.review.retention_days,
    )
    thread = threading.Thread(target=settling.run, name="settling", daemon=True)
    accounts = open_accounts(state)
    parts = Parts(
        accounts=accounts,
        queue=queue,
        manifest=lambda: using().package.manifest,
        live=live,
        left=Left(WhatLeft(state.outbox), Shelf(state.packages, lambda: using().package)),
        site=site,
        hosts=listen.names,
    )
    try:
        server = PageServer(
            create_app(parts),
            host=listen.host,
            port=PORT if listen.port is None else listen.port,
            or_free=listen.port is None,
        )
        with server:
            thread.start()
            try:
                yield server.url
            finally:
                settling.stop()
                thread.join(_STOP_S)
    finally:
        accounts.close()
