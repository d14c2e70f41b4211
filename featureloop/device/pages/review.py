"""The review page: the least reliable result first, one key to decide it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.device.pages import view
from featureloop.device.pages.guard import Ours, Reviewer, body_of, parts_of
from featureloop.device.review.answers import MOST_BYTES, answer_of, recognized_json, result_json
from featureloop.device.review.cases import Answer, Case
from featureloop.device.review.sealed import png
from featureloop.model.manifest import Manifest

router = APIRouter(prefix="/review")
AT_HAND = 4
"""Cases whose images are kept decrypted in memory: the one on the page, the next one, and those of other readers."""


class AtHand:
    """The last few cases that were opened, so that the image of one is decrypted once."""

    def __init__(self) -> None:
        self._cases: OrderedDict[int, Case] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, case: Case) -> Case:
        """Remember a case."""
        with self._lock:
            self._cases[case.number] = case
            self._cases.move_to_end(case.number)
            while len(self._cases) > AT_HAND:
                self._cases.popitem(last=False)
        return case

    def get(self, number: int) -> Case | None:
        """A case that is remembered."""
        with self._lock:
            return self._cases.get(number)

    def drop(self, number: int) -> None:
        """Forget a case: it is decided."""
        with self._lock:
            self._cases.pop(number, None)

    def clear(self) -> None:
        """Forget all cases: somebody logged out. Who still reads has theirs decrypted again."""
        with self._lock:
            self._cases.clear()


def _at_hand(request: Request) -> AtHand:
    kept: AtHand = request.app.state.at_hand
    return kept


Kept = Annotated[AtHand, Depends(_at_hand)]
Seconds = Annotated[float | None, Query()]


@router.get("")
def review_page(request: Request, user: Reviewer) -> HTMLResponse:
    """The page; its script fetches the cases."""
    return view.page(request, "review.html", user=user)


@router.get("/next")
def next_case(request: Request, user: Reviewer, kept: Kept, after: Annotated[int | None, Query()] = None) -> Response:
    """The least reliable case that this reader can decide, as JSON; 204 where there is none."""
    case = parts_of(request).queue.next(user.name, after=after)
    if case is None:
        return Response(status_code=204)
    return JSONResponse(_case_json(request, kept.keep(case)))


@router.get("/progress")
def progress(request: Request, user: Reviewer) -> JSONResponse:
    """How many are open, how many this reader decided, and how fast."""
    found = parts_of(request).queue.progress(user.name)
    return JSONResponse({"open": found.open, "mine": found.mine, "median_s": found.median_s})


@router.get("/cases/{number}/image")
def image(request: Request, number: int, _user: Reviewer, kept: Kept) -> Response:
    """The frame as PNG."""
    return Response(png(_case(request, number, kept).asked.frame.pixels), media_type="image/png")


@router.get("/cases/{number}/values")
def values(request: Request, number: int, _user: Reviewer, kept: Kept) -> Response:
    """The values of a frame of more than 8 bits, uint16 little-endian, row by row."""
    deep = _case(request, number, kept).asked.frame.deep
    if deep is None:
        raise InputError(f"case {number} has 8 bits a value, as its image shows them")
    return Response(deep.values.astype("<u2").tobytes(), media_type="application/octet-stream")


@router.post("/cases/{number}/answer")
async def answer(
    request: Request,
    number: int,
    user: Ours,
    _reviewer: Reviewer,
    kept: Kept,
    seconds: Annotated[float | None, Query()] = None,
) -> JSONResponse:
    """Keep what the reader says: durable when this is answered."""
    body = await body_of(request, most=MOST_BYTES)

    def decide() -> str:
        case = _case(request, number, kept)
        said = answer_of(body, case, manifest=_manifest(request, case))
        state = parts_of(request).queue.decide(number, reader=user.name, answer=said, seconds=seconds)
        kept.drop(number)
        return f"{said.kind}, {state}"

    return JSONResponse({"kept": await run_in_threadpool(decide)})


@router.post("/undo")
def undo(request: Request, user: Ours, _role: Reviewer, kept: Kept) -> Response:
    """Take the last answer back, and show its case again; 204 where there is none that isn't on its way."""
    case = parts_of(request).queue.undo(user.name)
    if case is None:
        return Response(status_code=204)
    return JSONResponse(_case_json(request, kept.keep(case)))


def _case(request: Request, number: int, kept: AtHand) -> Case:
    return kept.get(number) or kept.keep(parts_of(request).queue.case(number))


def _manifest(request: Request, case: Case) -> Manifest:
    """Of the task of a case, of the package in use: a line's packages share labels and grid."""
    return parts_of(request).manifest().for_task(case.asked.recognition.task)


def _case_json(request: Request, case: Case) -> dict[str, Any]:
    found, frame = case.asked.recognition, case.asked.frame
    manifest = _manifest(request, case)
    height, width = frame.pixels.shape[:2]
    deep = frame.deep
    return {
        "number": case.number,
        "state": case.state,
        "task": found.task,
        "labels": list(manifest.labels),
        "height": height,
        "width": width,
        "deep": None if deep is None else {"low": deep.low, "high": deep.high, "most": int(deep.values.max())},
        "reliability": round(case.asked.reliability, 4),
        "result": recognized_json(found, manifest=manifest, height=height, width=width),
        "answers": [_answer_json(a, found.task, manifest, height, width) for a in case.answers],
    }


def _answer_json(answer: Answer, task: Task, manifest: Manifest, height: int, width: int) -> dict[str, Any]:
    if answer.rows is None:
        return {"kind": answer.kind}
    return {"kind": answer.kind, **result_json(answer.rows, task, manifest=manifest, height=height, width=width)}
