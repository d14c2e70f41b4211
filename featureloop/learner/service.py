"""The learner's service, top to bottom: ingest -> store -> registry -> the devices."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from featureloop.core.audit_log import AuditLog
from featureloop.core.errors import InputError, StorageError
from featureloop.core.ports import Clock
from featureloop.learner.api import create_app
from featureloop.learner.auth import Auth
from featureloop.learner.control import Control
from featureloop.learner.ingest import Drainer, Ingest
from featureloop.learner.keys import SigningKeys
from featureloop.learner.registry import Registry
from featureloop.learner.store import RecordStore

MAX_CONNECTIONS = 128
GRACE_S = 10


@dataclass(frozen=True, slots=True)
class Learner:
    """The opened parts of one learner's directory.

    Attributes
    ----------
    path
        The directory.
    control
        Devices, packages and what is on its way (`control.sqlite`).
    auth
        Enrolment and tokens.
    ingest
        From a device's body to the store.
    store
        The records (`records.lance`).
    registry
        The packages (`packages/`).
    keys
        What signs them (`keys/`).
    audit
        Who asked for what (`audit.jsonl`).
    """

    path: Path
    control: Control
    auth: Auth
    ingest: Ingest
    store: RecordStore
    registry: Registry
    keys: SigningKeys
    audit: AuditLog


def open_learner(path: Path, *, control_url: str | None = None, clock: Clock = time.time) -> Learner:
    """Open a learner's directory, or make it.

    Parameters
    ----------
    control_url
        SQLAlchemy URL of the control database; None for `control.sqlite` in the directory.
    clock
        Seconds since the epoch.

    Raises
    ------
    StorageError
        It can't be made, or was made by another version.
    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the learner's directory '{path}' can't be made: {error}; choose another") from error
    control = Control(control_url or f"sqlite:///{path / 'control.sqlite'}")
    keys = SigningKeys(path / "keys", clock)
    store = RecordStore(path / "records.lance")
    registry = Registry(path / "packages", control, keys, clock)
    ingest = Ingest(control, store, registry, path / ".drain.lock", clock)
    audit = AuditLog(path / "audit.jsonl", clock)
    return Learner(path, control, Auth(control, clock), ingest, store, registry, keys, audit)


def serve(
    learner: Learner, *, host: str = "127.0.0.1", port: int = 0, on_ready: Callable[[str], None] = lambda _url: None
) -> None:
    """Take records and give packages out, until SIGTERM or SIGINT.

    What was acknowledged before a crash is moved into the store first. At the
    end, requests under way are finished and what they brought is drained.

    Parameters
    ----------
    host
        Address to listen on; loopback unless a proxy with TLS stands before it.
    port
        0 takes a free one.
    on_ready
        Called with the URL once requests are taken.

    Raises
    ------
    InputError
        The address can't be listened on.
    """
    with _listening(host, port) as listener, _draining(learner.ingest), _signals_kept():
        config = uvicorn.Config(
            create_app(learner),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S,
        )
        url = _url(host, listener.getsockname()[1])
        _Server(config, lambda: on_ready(url)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it takes requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise InputError(f"can't listen on {host}:{port}: {error}; choose another --host or --port") from error
    with listener:
        yield listener


@contextmanager
def _draining(ingest: Ingest) -> Iterator[None]:
    drainer = Drainer(ingest)
    drainer.start()
    try:
        yield
    finally:
        drainer.stop()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Uvicorn repeats a signal after it has stopped; here that must not end the process before the drain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """The server has stopped already."""

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
