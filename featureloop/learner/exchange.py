"""HTTP as the learner speaks it: bounded bodies, bearer tokens, and errors as JSON."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from featureloop.core.errors import (
    AuthError,
    BodyTooLargeError,
    FeatureloopError,
    InputError,
    RecordError,
    StorageError,
)
from featureloop.learner.auth import RevokedError

AsyncSleep = Callable[[float], Awaitable[None]]
BODY_TIMEOUT_S = 120.0
SLOWEST_S = 4.0
_CLOSE = {"Connection": "close"}
_FIRST_S = 0.125
_ADDRESSES = 1_024


class SlowBodyError(FeatureloopError):
    """A body that did not come in time: the network's fault, so that a repeat may help."""


class MediaTypeError(RecordError):
    """A body that says to be something else than this address takes."""


STATUS: dict[type[FeatureloopError], int] = {
    BodyTooLargeError: 413,
    MediaTypeError: 415,
    SlowBodyError: 408,
    RecordError: 400,
    InputError: 400,
    RevokedError: 403,
    AuthError: 401,
    StorageError: 507,
    # Anything else is the learner's own trouble: the device keeps its records and comes back.
    FeatureloopError: 503,
}


def status_of(error: FeatureloopError) -> int:
    """The HTTP status of an error: its own class's, else its nearest parent's."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def answer_errors(app: FastAPI) -> None:
    """Have an application answer every error as `{"error": text}`."""

    @app.exception_handler(FeatureloopError)
    def known(_request: Request, error: FeatureloopError) -> JSONResponse:
        status = status_of(error)
        headers = {401: {"WWW-Authenticate": "Bearer"}, 408: _CLOSE, 413: _CLOSE, 503: {"Retry-After": "30"}}
        return JSONResponse({"error": str(error)}, status, headers.get(status))

    @app.exception_handler(HTTPException)
    def plain(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        return JSONResponse({"error": f"{where}: {found['msg']}"}, 400)

    @app.exception_handler(Exception)
    def unexpected(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": "an unexpected fault in the learner; its log says more"}, 500)


def bearer_token(request: Request) -> str:
    """The token of a request.

    Raises
    ------
    AuthError
        It has none.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthError("a token is needed ('Authorization: Bearer ...'); enroll the device first")
    return token.strip()


async def read_body(request: Request, *, limit: int) -> bytes:
    """A request's body, of which at most `limit` bytes are ever held.

    What is over the limit is dropped as it comes, up to as much again, so that
    a client that sends before it listens still hears the answer.

    Raises
    ------
    BodyTooLargeError
        It is longer.
    MediaTypeError
        It is compressed.
    SlowBodyError
        It broke off, or took over `BODY_TIMEOUT_S`.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise MediaTypeError("a compressed body isn't taken; send it as it is")
    declared = request.headers.get("Content-Length", "0")
    size = 0
    chunks: list[bytes] = []
    too_large = declared.isdecimal() and int(declared[:20]) > limit
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    too_large = True
                if too_large:
                    chunks.clear()
                    if size > 2 * limit:
                        break
                else:
                    chunks.append(chunk)
    except TimeoutError as error:
        raise SlowBodyError(f"the body took over {BODY_TIMEOUT_S:.0f} s, {size} bytes came; try again later") from error
    except ClientDisconnect as error:
        raise SlowBodyError(f"the body broke off after {size} bytes; send it again") from error
    if too_large:
        raise BodyTooLargeError(f"the body is over the limit of {limit} bytes; send fewer records at once")
    return b"".join(chunks)


class Slowdown:
    """Makes those wait who guessed wrong: 1/8 s after the first failure, doubling up to `SLOWEST_S`.

    Parameters
    ----------
    sleep
        As `asyncio.sleep`: others aren't held up meanwhile.
    """

    def __init__(self, *, sleep: AsyncSleep = asyncio.sleep) -> None:
        self._sleep = sleep
        self._failures: OrderedDict[str, int] = OrderedDict()

    async def wait(self, address: str) -> None:
        """Wait as long as this address's failures ask for."""
        failures = self._failures.get(address, 0)
        if failures:
            await self._sleep(min(SLOWEST_S, _FIRST_S * 2 ** min(failures - 1, 10)))

    def failed(self, address: str) -> None:
        """Count a failure; only the newest addresses are remembered."""
        self._failures[address] = self._failures.pop(address, 0) + 1
        while len(self._failures) > _ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget an address's failures."""
        self._failures.pop(address, None)


def client_address(request: Request) -> str:
    """The address that a request came from; behind a proxy that is the proxy's."""
    return request.client.host if request.client else "unknown"


Token = Annotated[str, Depends(bearer_token)]
