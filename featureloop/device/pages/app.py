"""The pages' application: what it is made of, the way in and out, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from featureloop import __version__
from featureloop.core.errors import AuthError, FeatureloopError
from featureloop.device.pages import left, live, review
from featureloop.device.pages.accounts import SESSION_S, Accounts, Role
from featureloop.device.pages.guard import (
    COOKIE,
    Anybody,
    LogInFirstError,
    Patience,
    check_form,
    form_of,
    guard,
    parts_of,
    user_or_none,
)
from featureloop.device.pages.view import HERE, MENU, page, templates
from featureloop.device.review.queue import ReviewQueue
from featureloop.model.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pages show and change.

    Attributes
    ----------
    accounts
        Who may log in.
    queue
        Doubtful results that wait for a person.
    manifest
        Gives the manifest of the package in use.
    live, left
        What the pages Live and What left show.
    site
        The site's enrolled id, for the heading.
    hosts
        Names that the pages are served under, besides 127.0.0.1 and localhost.
    """

    accounts: Accounts
    queue: ReviewQueue
    manifest: Callable[[], Manifest]
    live: live.Live
    left: left.Left
    site: str
    hosts: tuple[str, ...] = ()


router = APIRouter()


def create_app(parts: Parts) -> FastAPI:
    """The application over a device's parts."""
    app = FastAPI(title="featureloop device", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.parts = parts
    app.state.patience = Patience()
    app.state.templates = templates()
    app.state.at_hand = review.AtHand()
    guard(app, hosts=parts.hosts)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(router)
    for page_router in (live.router, review.router, left.router):
        app.include_router(page_router)
    _answer_errors(app)
    return app


@router.get("/")
def home(user: Anybody) -> RedirectResponse:
    """The first page: what waits for a reviewer, and for others what runs."""
    return RedirectResponse("/review" if user.role is Role.REVIEWER else MENU[0][0], 303)


@router.get("/login")
def login_page(request: Request) -> Response:
    """The way in."""
    if user_or_none(request):
        return RedirectResponse("/", 303)
    return page(request, "login.html", user=None, trouble="", name="", empty=not parts_of(request).accounts.users())


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Open a session."""
    parts, patience = parts_of(request), request.app.state.patience
    form = await form_of(request)
    name, password = form.get("name", "").strip().lower(), form.get("password", "")
    if wait := patience.wait_s(name):
        return _again(request, f"Too many wrong tries. Wait {wait:.0f} seconds.", name, 429)
    try:
        token = await run_in_threadpool(parts.accounts.log_in, name, password)
    except AuthError:
        patience.failed(name)
        return _again(request, "The name or the password is wrong.", name, 403)
    patience.succeeded(name)
    answer = RedirectResponse("/", 303)
    # Not 'secure': on 127.0.0.1 the pages are plain HTTP; behind TLS the proxy adds it.
    answer.set_cookie(COOKIE, token, max_age=int(SESSION_S), httponly=True, samesite="strict")
    return answer


def _again(request: Request, trouble: str, name: str, status: int) -> Response:
    return page(request, "login.html", user=None, trouble=trouble, name=name, empty=False, status=status)


@router.post("/logout")
async def log_out(request: Request, user: Anybody) -> RedirectResponse:
    """End the session; no decrypted image of the review stays in memory."""
    check_form(user, (await form_of(request)).get("form", ""))
    parts_of(request).accounts.log_out(request.cookies[COOKIE])
    request.app.state.at_hand.clear()
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


def _answer_errors(app: FastAPI) -> None:
    """Errors as a page, or as `{"error": text}` to a script."""

    def answer(request: Request, text: str, status: int) -> Response:
        if "text/html" not in request.headers.get("Accept", ""):
            return JSONResponse({"error": text}, status)
        return page(request, "error.html", user=user_or_none(request), text=text, status=status)

    @app.exception_handler(LogInFirstError)
    def nobody(request: Request, _error: LogInFirstError) -> Response:
        if "text/html" not in request.headers.get("Accept", ""):
            return JSONResponse({"error": "log in first"}, 401)
        return RedirectResponse("/login", 303)

    @app.exception_handler(HTTPException)
    def plain(request: Request, error: HTTPException) -> Response:
        return answer(request, str(error.detail), error.status_code)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, str(error.errors()[0]["msg"]), 400)

    @app.exception_handler(FeatureloopError)
    def known(request: Request, error: FeatureloopError) -> Response:
        return answer(request, str(error), 409)
