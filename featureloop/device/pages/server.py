"""The pages' web server (uvicorn), on a thread of its own beside the recognition."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from featureloop.core.errors import StorageError

HOST = "127.0.0.1"
PORT = 8471
"""Where the pages are, unless it is in use."""
_STOP_S = 5.0
_MOST_SAID = 1_024
"""Bytes that a page may say at once on its line."""


class PageServer:
    """Serves an application until it is stopped; used in a `with` block.

    Parameters
    ----------
    host
        The address to listen on: 127.0.0.1, where only this machine comes in, unless the site chose another.
    port
        0 takes a free one.
    or_free
        Takes a free one where the port is in use.

    Raises
    ------
    StorageError
        The address can't be listened on.
    """

    def __init__(self, app: FastAPI, *, host: str = HOST, port: int = 0, or_free: bool = False) -> None:
        try:
            try:
                self._socket = socket.create_server((host, port))
            except OSError:
                if not or_free:
                    raise
                self._socket = socket.create_server((host, 0))
        except OSError as error:
            raise StorageError(f"no page can be served on {host}:{port}: {error}; choose another --pages") from error
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
            ws_per_message_deflate=False,  # A JPEG doesn't get smaller, and on one machine small is of no use.
            ws_max_size=_MOST_SAID,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)

    @property
    def url(self) -> str:
        """Where the pages are."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer what was asked, and end."""
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
