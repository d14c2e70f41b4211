"""Who may ask for what: host names, sessions, roles, forms, and the headers that close a page to others.

The pages are for this machine: a request under another host name than 127.0.0.1 or localhost (a name that somebody
made to point here) is refused, unless the site names its own. Cookies are HttpOnly and SameSite=Strict; whatever
changes something brings the session's secret along; no page can be framed, and no script runs that isn't ours.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from featureloop.device.pages.accounts import Role, User

if TYPE_CHECKING:
    from featureloop.device.pages.app import Parts

COOKIE = "featureloop_session"
FORM_HEADER = "X-Form"
MOST_FORM = 4_096
LOCAL_HOSTS = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_SECONDS_MOST = 60.0


class LogInFirstError(Exception):
    """Nobody is logged in."""


def parts_of(request: HTTPConnection) -> Parts:
    """What the application was made of."""
    parts: Parts = request.app.state.parts
    return parts


def user_or_none(request: HTTPConnection) -> User | None:
    """Who is logged in, if anybody is."""
    token = request.cookies.get(COOKIE)
    return parts_of(request).accounts.user_of(token) if token else None


def anybody(request: HTTPConnection) -> User:
    """Somebody who is logged in, in any role.

    Raises
    ------
    LogInFirstError
        Nobody is.
    """
    user = user_or_none(request)
    if user is None:
        raise LogInFirstError
    return user


def reviewer(user: Annotated[User, Depends(anybody)]) -> User:
    """Somebody who decides about results."""
    if user.role is not Role.REVIEWER:
        raise HTTPException(403, "only a reviewer decides about results; log in as one")
    return user


def operator(user: Annotated[User, Depends(anybody)]) -> User:
    """Somebody who runs the sharing."""
    if user.role is not Role.OPERATOR:
        raise HTTPException(403, "only an operator may do that; log in as one")
    return user


Anybody = Annotated[User, Depends(anybody)]
Reviewer = Annotated[User, Depends(reviewer)]
Operator = Annotated[User, Depends(operator)]


def ours(request: Request, user: Anybody) -> User:
    """Somebody whose change comes from one of our own pages: it brings the session's secret in a header.

    Raises
    ------
    HTTPException
        403: it doesn't.
    """
    check_form(user, request.headers.get(FORM_HEADER, ""))
    return user


Ours = Annotated[User, Depends(ours)]


def check_form(user: User, secret: str) -> None:
    """Refuse a change that another site's page may have made (CSRF)."""
    if not hmac.compare_digest(secret.encode(errors="replace"), user.form.encode()):
        raise HTTPException(403, "this page is from another session: load it again")


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a small form.

    Raises
    ------
    HTTPException
        413, 415: it is too long, or no form.
    """
    if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is sent as application/x-www-form-urlencoded")
    body = await body_of(request, most=MOST_FORM)
    found = parse_qs(body.decode("utf-8", errors="replace"), max_num_fields=16)
    return {name: values[0] for name, values in found.items()}


async def body_of(request: Request, *, most: int) -> bytes:
    """A request's body of at most so many bytes.

    Raises
    ------
    HTTPException
        413: it is longer.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, f"that is over the limit of {most} bytes")
    return bytes(body)


class Patience:
    """Wrong passwords for a name are answered with an ever longer pause, up to a minute, before the next try counts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}

    def wait_s(self, name: str) -> float:
        """Seconds until the name may be tried again."""
        times, since = self._failed.get(name, (0, 0.0))
        return max(0.0, since + min(_SECONDS_MOST, 2.0 ** (times - 3)) - self._clock()) if times >= 3 else 0.0

    def failed(self, name: str) -> None:
        """A try failed."""
        if len(self._failed) >= 1_024:
            self._failed.pop(next(iter(self._failed)))
        self._failed[name] = (self._failed.pop(name, (0, 0.0))[0] + 1, self._clock())

    def succeeded(self, name: str) -> None:
        """A try succeeded."""
        self._failed.pop(name, None)


def guard(app: FastAPI, *, hosts: tuple[str, ...]) -> None:
    """Put the checks of host names and the headers around every answer."""

    @app.middleware("http")
    async def around(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if not known_host(request, hosts):
            host = request.headers.get("Host", "")
            return Response(f"these pages are not served under the name {host[:60]!r}", 421, media_type="text/plain")
        answer = await go_on(request)
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer


def known_host(connection: HTTPConnection, hosts: tuple[str, ...]) -> bool:
    """Whether a request or a WebSocket is for this machine or one of the site's own names."""
    host = connection.headers.get("Host", "")
    return (host.rpartition(":")[0] or host) in {*LOCAL_HOSTS, *hosts}


def same_host(connection: HTTPConnection) -> bool:
    """Whether a WebSocket was opened by one of our own pages: browsers name the page's origin."""
    origin, host = connection.headers.get("Origin", ""), connection.headers.get("Host", "")
    return origin.partition("://")[2] == host
