"""The page of what left: every record in words, bytes by day, and what a record's features look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response

from featureloop.core.errors import InputError, RecordError
from featureloop.device.left import Day, Line, Shelf, WhatLeft, bag_of, symbols_of
from featureloop.device.outbox_file import State
from featureloop.device.pages import view
from featureloop.device.pages.guard import Anybody, parts_of
from featureloop.device.pages.strip import rows_png, strip_png
from featureloop.device.words import STATES, moment_in_words, record_in_words, size_in_words
from featureloop.model.manifest import Manifest
from featureloop.model.tasks import rules_of
from featureloop.sharing.record import Record

router = APIRouter(prefix="/left")
CHART_WIDTH, CHART_HEIGHT = 720, 150
_BASE, _TOP, _LEFT = 122, 14, 4


@dataclass(frozen=True, slots=True)
class Left:
    """What the page reads: the outbox, and the packages that its records were made under."""

    outbox: WhatLeft
    shelf: Shelf
    today: Callable[[], date] = lambda: datetime.now(UTC).date()


def _left(request: Request) -> Left:
    return parts_of(request).left


LeftPart = Annotated[Left, Depends(_left)]
Number = Annotated[int | None, Query(ge=0)]


@router.get("")
def left_page(
    request: Request,
    user: Anybody,
    left: LeftPart,
    *,
    state: Annotated[State | None, Query()] = None,
    older: Number = None,
    newer: Number = None,
) -> HTMLResponse:
    """Records, newest first."""
    leaf, counts = left.outbox.page(state=state, older_than=older, newer_than=newer), left.outbox.counts()
    days = left.outbox.days(until=left.today())
    return view.page(
        request,
        "left.html",
        user=user,
        rows=[_row(line, left.shelf) for line in leaf.lines],
        leaf=leaf,
        state=state,
        tabs=[(None, "all", sum(counts.values())), *((s, STATES[s], counts[s]) for s in State)],
        days=[(day, size_in_words(day.size)) for day in days],
        chart=_chart(days),
        total=size_in_words(sum(day.size for day in days)),
        records=sum(day.records for day in days),
    )


@router.get("/{record}")
def record_page(request: Request, user: Anybody, left: LeftPart, record: str) -> HTMLResponse:
    """All that one record says."""
    line = left.outbox.one(record)
    manifest = left.shelf.manifest(line.record) if line.record else None
    return view.page(
        request,
        "record.html",
        user=user,
        row=_row(line, left.shelf),
        words=record_in_words(line.record) if line.record else [],
        picture=None if line.record is None or manifest is None else _picture_words(line.record, manifest),
        refused=line.entry.reason,
    )


@router.get("/{record}/features.png")
def features(_user: Anybody, left: LeftPart, record: str) -> Response:
    """Its feature values, decoded from its own bytes, as a strip of colours."""
    found, manifest = _made_under(left, record)
    return Response(strip_png(symbols_of(found, manifest), manifest.released.levels), media_type="image/png")


@router.get("/{record}/result.png")
def result(_user: Anybody, left: LeftPart, record: str) -> Response:
    """What was recognized for each of its vectors, in the same order."""
    found, manifest = _made_under(left, record)
    rows = bag_of(found, manifest).recognized[:, : manifest.released.flags]
    return Response(rows_png(rows), media_type="image/png")


def _made_under(left: Left, record: str) -> tuple[Record, Manifest]:
    found = left.outbox.one(record).record
    manifest = left.shelf.manifest(found) if found else None
    if found is None or manifest is None:
        raise InputError("its content was deleted, or its package is no longer on this device")
    return found, manifest


def _row(line: Line, shelf: Shelf) -> dict[str, Any]:
    entry, record = line.entry, line.record
    return {
        "id": entry.id.hex(),
        "state": entry.state,
        "state_words": STATES[entry.state],
        "put": moment_in_words(entry.put_at),
        "since": moment_in_words(line.since),
        "size": size_in_words(entry.size),
        "what": "content deleted, only its id is kept" if record is None else _what(record),
        "change": "" if record is None else record.changed_by or "",
        "drawn": record is not None and shelf.manifest(record) is not None,
    }


def _what(record: Record) -> str:
    vectors = f"{record.vectors} feature vectors" if record.vectors != 1 else "one feature vector"
    return f"{record.task}, {vectors} of {record.channels} values"


def _picture_words(record: Record, manifest: Manifest) -> dict[str, Any]:
    """The sentences under a record's picture."""
    base, n = manifest.released.form.base, record.vectors
    order = {
        "pool": "It is one summary of the whole frame: nothing in it has a place.",
        "set": "Columns stand in an order computed from their values alone, so nothing tells where in the image a "
        "vector was.",
        "window": "Small windows of neighbouring vectors stay together; where a window was, nothing tells.",
        "none": "The site's policy lets the vectors keep their places.",
    }[base]
    try:
        symbols_of(record, manifest)
    except RecordError as error:
        return {"trouble": str(error)}
    rows = record.recognition is not None and n > 1 and rules_of(manifest).form == "set"
    what = (
        f"All {record.channels} values that leave, one cell a value"
        if n == 1
        else f"All {n * record.channels:,} feature values that leave: a column for each of {n} vectors, a row for each "
        f"of {record.channels} channels"
    )
    return {
        "trouble": None,
        "what": f"{what}; dark is low, light is high",
        "order": order,
        "rows": rows,
        "one": n == 1,
    }


def _chart(days: tuple[Day, ...]) -> dict[str, Any]:
    """Bars of bytes by day, in the units of the drawing."""
    most = max((day.size for day in days), default=0)
    step = (CHART_WIDTH - 2 * _LEFT) / max(1, len(days))
    bars = []
    for i, day in enumerate(days):
        high = (_BASE - _TOP) * day.size / most if most else 0.0
        high = max(high, 2.0) if day.size else 0.0
        bars.append(
            {
                "x": round(_LEFT + i * step + step * 0.14, 1),
                "y": round(_BASE - high, 1),
                "width": round(step * 0.72, 1),
                "height": round(high, 1),
                "label": day.day.strftime("%d %b") if (len(days) - 1 - i) % 7 == 0 else "",
                # The last day's name would stand out over the edge.
                "at": round(_LEFT + (i + 0.5) * step, 1) if i < len(days) - 1 else CHART_WIDTH,
                "anchor": "middle" if i < len(days) - 1 else "end",
            }
        )
    return {
        "bars": bars,
        "most": size_in_words(most),
        "base": _BASE,
        "top": _TOP,
        "width": CHART_WIDTH,
        "height": CHART_HEIGHT,
    }
