"""The live page: the newest frame with what was recognized in it, and what is being shared, with its switch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect

from featureloop.device.feed import LiveFeed
from featureloop.device.pages import view
from featureloop.device.pages.accounts import Role, User
from featureloop.device.pages.guard import (
    Anybody,
    check_form,
    form_of,
    known_host,
    parts_of,
    same_host,
    user_or_none,
)
from featureloop.device.pages.moment import Moments
from featureloop.device.sharing_now import Sharing, SharingNow
from featureloop.device.words import moment_in_words, outcome_in_words, size_in_words
from featureloop.images.live import LiveCounts

router = APIRouter(prefix="/live")
WAIT_S = 1.0
"""So long a viewer waits for a frame until it is told that there is none; it asks again then."""
SESSION_EVERY_S = 30.0
MOST_VIEWERS = 8
LOGGED_OUT, TOO_MANY, NOT_OURS = 4401, 4429, 4403
"""Codes by which a viewer's line is closed."""
BARS_SHOWN = 6


@dataclass(slots=True)
class Live:
    """What the live page shows.

    Attributes
    ----------
    feed
        The newest frames.
    sharing
        What is being shared, and its switch.
    source
        The live source's name, and what came of it; None where the device watches a folder only.
    """

    feed: LiveFeed
    sharing: Sharing
    source: Callable[[], tuple[str, LiveCounts] | None] = lambda: None
    moments: Moments = field(default_factory=Moments, init=False)
    viewers: int = field(default=0, init=False)


def _live(request: Request) -> Live:
    return parts_of(request).live


LivePart = Annotated[Live, Depends(_live)]


@router.get("")
def live_page(request: Request, user: Anybody, live: LivePart) -> HTMLResponse:
    """The page; its script asks for the frames."""
    source = live.source()
    return view.page(
        request,
        "live.html",
        user=user,
        source=source[0] if source else None,
        sharing=sharing_json(live.sharing.now(), user),
    )


@router.get("/sharing")
def sharing(user: Anybody, live: LivePart) -> JSONResponse:
    """How the sharing stands, in words."""
    return JSONResponse(sharing_json(live.sharing.now(), user))


@router.post("/sharing")
async def switch(request: Request, user: Anybody, live: LivePart) -> Response:
    """Switch the sharing off, which anybody may, or on, which an operator may."""
    form = await form_of(request)
    check_form(user, form.get("form", ""))
    wanted = form.get("sharing")
    if wanted not in {"on", "off"}:
        raise HTTPException(400, f"sharing can be 'on' or 'off', not {str(wanted)[:20]!r}")
    if wanted == "on" and user.role is not Role.OPERATOR:
        raise HTTPException(403, "only an operator switches the sharing on; anybody can switch it off")
    await run_in_threadpool(live.sharing.switch.turn, on=wanted == "on", by=user.name)
    if "text/html" in request.headers.get("Accept", ""):
        return RedirectResponse("/live", 303)
    return JSONResponse(await run_in_threadpool(lambda: sharing_json(live.sharing.now(), user)))


@router.websocket("/frames")
async def frames(line: WebSocket) -> None:
    """Frames for one viewer: the newest one whenever it asks, so that a slow viewer misses some and delays nothing."""
    parts = parts_of(line)
    live: Live = parts.live
    if not same_host(line) or not known_host(line, parts.hosts):
        await line.close(NOT_OURS)
        return
    await line.accept()
    if await run_in_threadpool(user_or_none, line) is None:
        await line.close(LOGGED_OUT)
        return
    if live.viewers >= MOST_VIEWERS:
        await line.close(TOO_MANY)
        return
    live.viewers += 1
    try:
        await _serve(line, live)
    except (WebSocketDisconnect, RuntimeError):
        pass  # The viewer went away, perhaps while it was being answered.
    finally:
        live.viewers -= 1


async def _serve(line: WebSocket, live: Live) -> None:
    seen, checked = 0, time.monotonic()
    while True:
        await line.receive_text()
        if time.monotonic() - checked >= SESSION_EVERY_S:
            checked = time.monotonic()
            if await run_in_threadpool(user_or_none, line) is None:
                await line.close(LOGGED_OUT)
                return
        seen, answer = await run_in_threadpool(_next, live, seen)
        if isinstance(answer, bytes):
            await line.send_bytes(answer)
        else:
            await line.send_json(answer)


def _next(live: Live, seen: int) -> tuple[int, bytes | dict[str, Any]]:
    """A newer frame as soon as there is one, and its number; words where there is none for a while."""
    shown = live.feed.wait(after=seen, seconds=WAIT_S)
    if shown is None:
        return seen, {"waiting": True, **_source_facts(live)}
    facts = {"rate": round(live.feed.rate, 1), **_source_facts(live)}
    return shown.number, live.moments.of(shown, facts=facts, now=time.monotonic())


def _source_facts(live: Live) -> dict[str, Any]:
    source = live.source()
    if source is None:
        return {"source": None}
    name, counts = source
    return {"source": name, "dropped": counts.dropped, "trouble": counts.trouble}


def sharing_json(now: SharingNow, user: User) -> dict[str, Any]:
    """How the sharing stands: the words that the page shows, and what its reader may do."""
    on = now.switch.on
    return {
        "on": on,
        "state": "Sharing is on" if on else "Sharing is off",
        "why": _why(now),
        "may": "off" if on else ("on" if user.role is Role.OPERATOR else None),
        "trouble": _trouble(now),
        "outcomes": [
            {"outcome": k, "words": outcome_in_words(k), "count": n} for k, n in list(now.outcomes.items())[:BARS_SHOWN]
        ],
        "dropped": now.dropped,
        "today": _today(now),
        "waiting": _waiting(now),
        "learner": _learner(now),
        "learner_why": now.uplink.error or "" if now.uplink else "",
    }


def _why(now: SharingNow) -> str:
    """One sentence on what leaves at the moment, or why nothing does."""
    switch = now.switch
    if not switch.on:
        who = "" if switch.by is None else f" {switch.by} switched it off"
        when = "" if switch.at is None else f" on {moment_in_words(switch.at)}"
        return f"Nothing is provided and nothing is sent; recognition goes on.{who}{when}{'.' if who else ''}"
    if now.forbidden:
        return f"Nothing is provided: {now.forbidden}."
    return "Anonymized features and results leave as the site's policy says. Images never do."


def _trouble(now: SharingNow) -> str | None:
    return now.switch.trouble or now.trouble


def _today(now: SharingNow) -> str:
    limit = f" of {size_in_words(now.budget)} a day" if now.budget else ""
    return f"{size_in_words(now.today_bytes)}{limit} in {_records(now.today)}"


def _waiting(now: SharingNow) -> str:
    return f"{_records(now.waiting)}, {size_in_words(now.waiting_bytes)}" if now.waiting else "nothing"


def _learner(now: SharingNow) -> str:
    if not now.switch.on:
        return "not asked while sharing is off"
    uplink = now.uplink
    if uplink is None:
        return "not asked"
    if uplink.stopped:
        return f"refuses this device: {uplink.error}"
    if uplink.error:
        times = f"{uplink.failures} time{'s' if uplink.failures > 1 else ''}"
        return f"does not answer, tried {times}; what waits is kept"
    return "nothing was due to be sent yet" if uplink.at is None else f"answers, last on {moment_in_words(uplink.at)}"


def _records(n: int) -> str:
    return f"{n:,} record{'' if n == 1 else 's'}"
