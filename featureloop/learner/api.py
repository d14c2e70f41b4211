"""The learner's API: enroll, provide records, fetch the live package.

Blocking work (the database, the store, files) runs in the thread pool; only
bodies are read on the event loop, bounded while they stream in.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from featureloop import __version__
from featureloop.core.errors import AuthError, FeatureloopError, RecordError
from featureloop.learner.auth import DeviceIdentity, Enrolled
from featureloop.learner.exchange import (
    AsyncSleep,
    MediaTypeError,
    Slowdown,
    Token,
    answer_errors,
    client_address,
    read_body,
    status_of,
)
from featureloop.model.package import Package, pack
from featureloop.sharing.record import MAX_BODY
from featureloop.sharing.together import MEDIA_TYPES, media_type_of

if TYPE_CHECKING:
    from featureloop.learner.service import Learner

MAX_CODE_BODY = 4_096

router = APIRouter(prefix="/v1")


def create_app(learner: Learner, *, sleep: AsyncSleep = asyncio.sleep) -> FastAPI:
    """The application over a learner's parts; no pages that describe it are served."""
    app = FastAPI(title="featureloop learner", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.learner = learner
    app.state.slowdown = Slowdown(sleep=sleep)
    app.state.archives = _Archives()
    app.include_router(router)
    answer_errors(app)
    return app


def _learner(request: Request) -> Learner:
    learner: Learner = request.app.state.learner
    return learner


def device_of(request: Request, token: Token) -> DeviceIdentity:
    """Who asks.

    Raises
    ------
    AuthError
        The token is nobody's, or its device was revoked.
    """
    learner = _learner(request)
    try:
        return learner.auth.authenticate(token)
    except AuthError as error:
        learner.audit.write(
            actor="unknown", action=request.url.path, outcome=str(status_of(error)), address=client_address(request)
        )
        raise


Device = Annotated[DeviceIdentity, Depends(device_of)]


async def records_body(request: Request, _device: Device) -> bytes:
    """The body of a device that is known: a stranger's is never read."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise MediaTypeError(f"the body's type is '{kind[:60]}'; records are sent as {' or '.join(MEDIA_TYPES)}")
    body = await read_body(request, limit=MAX_BODY)
    if (found := media_type_of(body)) != kind:
        raise MediaTypeError(f"the body's type is said to be '{kind}', and it is {found}")
    return body


@router.get("/health")
def health() -> dict[str, str]:
    """Whether the learner answers."""
    return {"status": "ok", "version": __version__}


@router.post("/enroll")
async def enroll(request: Request) -> JSONResponse:
    """Exchange a one-time code for a device's identity; wrong codes are answered ever more slowly."""
    learner, address, slowdown = _learner(request), client_address(request), request.app.state.slowdown
    code = _code(await read_body(request, limit=MAX_CODE_BODY))
    await slowdown.wait(address)
    try:
        answer, actor = await run_in_threadpool(_enroll, learner, code)
    except AuthError:
        slowdown.failed(address)
        await run_in_threadpool(
            learner.audit.write, actor="unknown", action="enroll", outcome="refused", address=address
        )
        raise
    slowdown.succeeded(address)
    await run_in_threadpool(learner.audit.write, actor=actor, action="enroll", outcome="ok", address=address)
    return JSONResponse(answer)


def _code(body: bytes) -> str:
    try:
        found = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError('an enrolment is JSON like {"code": "ABCDE-..."}; that body is none') from error
    if not isinstance(found, str):
        raise RecordError("the enrolment code must be a text")
    return found


def _enroll(learner: Learner, code: str) -> tuple[dict[str, Any], str]:
    # The keys first: a code isn't used up where they can't be read.
    keys = [base64.b64encode(k.public_bytes_raw()).decode() for k in learner.keys.public()]
    made: Enrolled = learner.auth.enroll(code)
    return {"site": made.site, "device": made.device, "token": made.token, "keys": keys}, made.device


@router.post("/records")
def provide(request: Request, device: Device, body: Annotated[bytes, Depends(records_body)]) -> dict[str, Any]:
    """Take a body of records; what is answered as held is on the learner's disk."""
    learner = _learner(request)
    try:
        receipt = learner.ingest.receive(device, body)
    except FeatureloopError as error:
        learner.audit.write(
            actor=device.device, action="provide records", outcome=str(status_of(error)), reason=str(error)
        )
        raise
    held, refused = len(receipt.held), len(receipt.refused)
    learner.audit.write(actor=device.device, action="provide records", outcome="ok", held=held, refused=refused)
    return {
        "held": sorted(key.hex() for key in receipt.held),
        "refused": {key.hex(): reason for key, reason in receipt.refused.items()},
    }


@router.get("/packages/live")
def live_package(request: Request, device: Device, line: Annotated[str, Query(pattern="^[0-9a-f]{64}$")]) -> Response:
    """The live package of a line as a zip archive; 304 where the device has it already."""
    learner, archives = _learner(request), request.app.state.archives
    digest = learner.registry.live_digest(line)
    if digest is None:
        return JSONResponse({"error": f"line {line[:12]} has no live package"}, 404)
    if _matches(request.headers.get("If-None-Match", ""), digest):
        return Response(status_code=304, headers={"ETag": f'"{digest}"'})
    archive = archives.get(learner.registry.get(digest))
    learner.audit.write(actor=device.device, action="fetch package", outcome="ok", package=digest)
    return Response(archive, media_type="application/zip", headers={"ETag": f'"{digest}"'})


def _matches(header: str, digest: str) -> bool:
    """Whether an `If-None-Match` header names the digest (RFC 9110, section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or f'"{digest}"' in tags


@router.get("/status")
def status(request: Request, device: Device) -> dict[str, Any]:
    """Counts: of all sites together, and of the device's own site."""
    learner = _learner(request)
    counts = learner.store.counts()
    return {
        "version": __version__,
        "store_version": learner.store.version,
        "records": sum(counts.values()),
        "sites": len(counts),
        "own_site": counts.get(device.site, 0),
        "waiting": learner.ingest.pending(),
    }


class _Archives:
    """The newest live packages as archives: all devices of a line fetch the same one."""

    def __init__(self, *, keep: int = 2) -> None:
        self._keep = keep
        self._archives: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def get(self, package: Package) -> bytes:
        """The package's archive, packed once."""
        with self._lock:
            if package.digest not in self._archives:
                while len(self._archives) >= self._keep:
                    del self._archives[next(iter(self._archives))]
                self._archives[package.digest] = pack(package)
            return self._archives[package.digest]
