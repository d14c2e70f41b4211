"""Pages from templates: server-rendered, with what all of them show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from featureloop.device.pages.accounts import User
from featureloop.device.pages.guard import parts_of

HERE = Path(__file__).parent
MENU = (("/live", "Live"), ("/review", "Review"), ("/left", "What left"))
"""Address and name of every page, in order."""


def templates() -> Jinja2Templates:
    """The pages' templates; a value that one forgets is an error."""
    loader = FileSystemLoader(HERE / "templates")
    return Jinja2Templates(env=Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True))


def page(request: Request, template: str, *, user: User | None, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of a template."""
    shared = {"user": user, "site": parts_of(request).site, "menu": MENU, "here": request.url.path}
    found: Jinja2Templates = request.app.state.templates
    return found.TemplateResponse(request, template, {**shared, **values}, status_code=status)
