"""The API in process: every status, every header, bounded bodies, and nothing told to strangers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MakeRecord
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import FastAPI

from featureloop import __version__
from featureloop.core.errors import (
    AuthError,
    FeatureloopError,
    GateError,
    InputError,
    PackageError,
    RecordError,
    StorageError,
)
from featureloop.learner import api, exchange
from featureloop.learner.api import create_app
from featureloop.learner.auth import Enrolled
from featureloop.learner.service import Learner
from featureloop.model.package import Package, unpack, verify_signature
from featureloop.sharing.record import to_wire
from featureloop.sharing.together import ARROW_STREAM, MEDIA_TYPE, to_together


class Sleeper:
    """As `asyncio.sleep`, but only remembers."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:  # noqa: D102 - as asyncio.sleep
        self.slept.append(seconds)


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


class Client:
    """Requests to an application in this process."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method: str, url: str, **sent: Any) -> httpx.Response:
        """One request on an event loop of its own."""

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://learner") as client:
                return await client.request(method, url, **sent)

        return asyncio.run(ask())

    def get(self, url: str, **sent: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", url, **sent)

    def post(self, url: str, **sent: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", url, **sent)


@pytest.fixture
def client(learner: Learner, sleeper: Sleeper) -> Client:
    return Client(create_app(learner, sleep=sleeper))


async def pieces(size: int, count: int) -> AsyncIterator[bytes]:
    """A body of undeclared length."""
    for _ in range(count):
        yield b"x" * size


@pytest.fixture
def headers(device: Enrolled) -> dict[str, str]:
    return {"Authorization": f"Bearer {device.token}", "Content-Type": ARROW_STREAM}


def audited(learner: Learner) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (learner.path / "audit.jsonl").read_text().splitlines()]


def test_health_needs_no_token(client: Client) -> None:
    """A device's first question."""
    answer = client.get("/v1/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": __version__})


def test_enrolment_gives_an_identity_that_works(client: Client, learner: Learner) -> None:
    """Site, device, token and the keys that packages are signed with; the code works once."""
    code = learner.auth.invite("clinic-a")
    answer = client.post("/v1/enroll", json={"code": code})
    assert answer.status_code == 200
    assert set(answer.json()) == {"site", "device", "token", "keys"}
    keys = [Ed25519PublicKey.from_public_bytes(base64.b64decode(k)) for k in answer.json()["keys"]]
    (entry,) = learner.registry.list()
    verify_signature(learner.registry.get(entry.digest), keys)
    status = client.get("/v1/status", headers={"Authorization": f"Bearer {answer.json()['token']}"})
    assert status.status_code == 200
    again = client.post("/v1/enroll", json={"code": code})
    assert again.status_code == 401
    assert "wrong, used or expired" in again.json()["error"]


def test_wrong_codes_are_answered_ever_more_slowly(client: Client, learner: Learner, sleeper: Sleeper) -> None:
    """Up to four seconds; a right code ends it."""
    for _ in range(8):
        assert client.post("/v1/enroll", json={"code": "WRONG"}).status_code == 401
    assert sleeper.slept == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]
    client.post("/v1/enroll", json={"code": learner.auth.invite("clinic-a")})
    sleeper.slept.clear()
    client.post("/v1/enroll", json={"code": "WRONG"})
    assert sleeper.slept == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"code": 7}', b'"code"', b"\xff\xfe", b"[" * 4_000, b'{"code": null}']
)
def test_an_enrolment_that_is_none_is_400(client: Client, body: bytes) -> None:
    """Malformed JSON in any way."""
    answer = client.post("/v1/enroll", content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_a_long_enrolment_is_413(client: Client) -> None:
    """A code is short."""
    assert client.post("/v1/enroll", content=b" " * 5_000).status_code == 413


def test_records_are_held_and_a_replay_too(
    client: Client, learner: Learner, headers: dict[str, str], make: MakeRecord
) -> None:
    """The receipt names each id, held or refused with a reason."""
    good, bad = make(0), make(1, site="clinic-b")
    for _ in range(2):
        answer = client.post("/v1/records", content=to_wire([good, bad]), headers=headers)
        assert answer.status_code == 200
        assert answer.json()["held"] == [good.id.hex()]
        assert list(answer.json()["refused"]) == [bad.id.hex()]
        assert "clinic-b" in answer.json()["refused"][bad.id.hex()]
    assert learner.ingest.drain() == 1


WAYS: dict[str, tuple[str, str]] = {
    "records": ("POST", "/v1/records"),
    "package": ("GET", f"/v1/packages/live?line={'0' * 64}"),
    "status": ("GET", "/v1/status"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic dTpw", f"Bearer {'A' * 43}", "Bearer \xff"]
)
def test_strangers_get_401(client: Client, way: str, sent: str | None) -> None:
    """Without a token, or with a wrong one, the answer is the same everywhere and the body isn't read."""
    method, url = WAYS[way]
    headers = {"Content-Type": ARROW_STREAM} | ({} if sent is None else {"Authorization": sent.encode("latin-1")})
    answer = client.request(method, url, headers=headers, content=b"x" if method == "POST" else None)
    assert answer.status_code == 401
    assert list(answer.json()) == ["error"]
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_device_gets_403(
    client: Client, learner: Learner, device: Enrolled, headers: dict[str, str], make: MakeRecord
) -> None:
    """It is told, and nothing is taken."""
    learner.auth.revoke(device.device)
    answer = client.post("/v1/records", content=to_wire([make(0)]), headers=headers)
    assert answer.status_code == 403
    assert "revoked" in answer.json()["error"]
    assert learner.ingest.pending() == 0


def test_records_that_are_coded_together_are_held(
    client: Client, learner: Learner, founding: Package, make: MakeRecord, headers: dict[str, str]
) -> None:
    records = [make(i) for i in range(5)]
    body = to_together(records, {founding.digest: founding.manifest}.get)
    answer = client.post("/v1/records", content=body, headers=headers | {"Content-Type": MEDIA_TYPE})
    assert sorted(answer.json()["held"]) == sorted(r.id.hex() for r in records)
    assert learner.ingest.drain() == 5
    again = client.post("/v1/records", content=to_wire(records), headers=headers)
    assert sorted(again.json()["held"]) == sorted(r.id.hex() for r in records)
    assert learner.ingest.drain() == 0


def test_records_that_are_coded_together_are_checked_as_any(
    client: Client, learner: Learner, founding: Package, make: MakeRecord, headers: dict[str, str]
) -> None:
    """Each by itself where they can be read; of a package that is unknown here, none can."""
    headers = headers | {"Content-Type": MEDIA_TYPE}
    good, bad = make(0), make(1, site="clinic-b")
    body = to_together([good, bad], {founding.digest: founding.manifest}.get)
    answer = client.post("/v1/records", content=body, headers=headers).json()
    assert answer["held"] == [good.id.hex()]
    assert "clinic-b" in answer["refused"][bad.id.hex()]
    stranger = make(2, package=bytes(32))
    answer = client.post(
        "/v1/records", content=to_together([stranger], {bytes(32): founding.manifest}.get), headers=headers
    )
    assert answer.status_code == 400
    assert "unknown" in answer.json()["error"]
    assert learner.ingest.pending() == 1


def test_a_body_that_is_of_another_type_than_it_says_is_415(
    client: Client, founding: Package, make: MakeRecord, headers: dict[str, str]
) -> None:
    body = to_together([make(0)], {founding.digest: founding.manifest}.get)
    assert client.post("/v1/records", content=body, headers=headers).status_code == 415


def test_a_malformed_body_is_400(client: Client, headers: dict[str, str]) -> None:
    """With the reason as JSON."""
    answer = client.post("/v1/records", content=os.urandom(1_000), headers=headers)
    assert answer.status_code == 400
    assert "no Arrow stream" in answer.json()["error"]


@pytest.mark.parametrize("changed", [{"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}])
def test_another_kind_of_body_is_415(client: Client, headers: dict[str, str], changed: dict[str, str]) -> None:
    """Compressed bodies could hide their size."""
    assert client.post("/v1/records", content=b"x", headers=headers | changed).status_code == 415


def test_a_body_over_the_limit_is_413_and_not_kept(
    client: Client, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its length is declared or not; exactly the limit is read."""
    monkeypatch.setattr(api, "MAX_BODY", 1_000)
    for content in (b"x" * 1_001, b"x" * 5_000, pieces(100, 50)):
        answer = client.post("/v1/records", content=content, headers=headers)
        assert answer.status_code == 413
        assert "limit of 1000 bytes" in answer.json()["error"]
    assert client.post("/v1/records", content=b"x" * 1_000, headers=headers).status_code == 400


def test_a_full_disk_is_507(
    client: Client, learner: Learner, headers: dict[str, str], make: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device keeps its records; nothing was taken."""
    monkeypatch.setattr(learner.control, "_min_free", 1 << 62)
    answer = client.post("/v1/records", content=to_wire([make(0)]), headers=headers)
    assert answer.status_code == 507
    assert "free some space" in answer.json()["error"]
    assert learner.ingest.pending() == 0
    assert audited(learner)[-1]["outcome"] == "507"


def test_the_live_package_is_served_once_per_device(
    client: Client, learner: Learner, headers: dict[str, str], founding: Package, tmp_path: Path
) -> None:
    """A signed archive under its digest; who has it already gets 304."""
    url = f"/v1/packages/live?line={founding.line}"
    answer = client.get(url, headers=headers)
    etag = f'"{founding.digest.hex()}"'
    assert (answer.status_code, answer.headers["ETag"]) == (200, etag)
    verify_signature(unpack(answer.content, tmp_path / "fetched"), learner.keys.public())
    for known in (etag, f'"other", W/{etag}', "*"):
        again = client.get(url, headers=headers | {"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    assert client.get(url, headers=headers | {"If-None-Match": '"other"'}).content == answer.content


def test_a_promotion_shows_at_the_next_question(
    client: Client, learner: Learner, headers: dict[str, str], founding: Package, successor: Package
) -> None:
    """And so does a rollback."""
    url = f"/v1/packages/live?line={founding.line}"
    client.get(url, headers=headers)
    learner.registry.add(successor, metrics={})
    learner.registry.promote(successor.digest.hex())
    answer = client.get(url, headers=headers | {"If-None-Match": f'"{founding.digest.hex()}"'})
    assert answer.headers["ETag"] == f'"{successor.digest.hex()}"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert "signature.json" in archive.namelist()
    learner.registry.rollback(founding.line)
    assert client.get(url, headers=headers).headers["ETag"] == f'"{founding.digest.hex()}"'


@pytest.mark.parametrize(
    ("line", "status"), [("0" * 64, 404), ("", 400), ("zz", 400), ("A" * 64, 400), ("0" * 65, 400)]
)
def test_a_line_without_a_live_package_is_404(client: Client, headers: dict[str, str], line: str, status: int) -> None:
    """And what is no line is 400."""
    answer = client.get("/v1/packages/live", params={"line": line}, headers=headers)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_a_damaged_package_is_the_learners_own_trouble(
    client: Client, learner: Learner, headers: dict[str, str], founding: Package
) -> None:
    """503: the device keeps what it has, and asks again."""
    (learner.registry.path / founding.digest.hex() / "docs" / "README.md").write_text("altered")
    answer = client.get(f"/v1/packages/live?line={founding.line}", headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")


def test_status_tells_a_site_only_of_itself(
    client: Client, learner: Learner, headers: dict[str, str], make: MakeRecord
) -> None:
    """Sums over all sites, and the own site's count; no other site's name."""
    learner.store.add([make(i, site="clinic-b") for i in range(3)] + [make(9)])
    answer = client.get("/v1/status", headers=headers)
    assert answer.json() == {
        "version": __version__,
        "store_version": learner.store.version,
        "records": 4,
        "sites": 2,
        "own_site": 1,
        "waiting": 0,
    }


@pytest.mark.parametrize("url", ["/docs", "/redoc", "/openapi.json", "/v1/openapi.json", "/", "/v1/nothing"])
def test_nothing_else_is_served(client: Client, url: str) -> None:
    """404 as JSON."""
    answer = client.get(url)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]
    assert client.request("DELETE", "/v1/health").status_code == 405


def test_the_audit_log_says_who_did_what(
    client: Client, learner: Learner, device: Enrolled, headers: dict[str, str], make: MakeRecord
) -> None:
    """Actor, action, outcome and counts, one JSON line each; no token, code or payload."""
    code = learner.auth.invite("clinic-b")
    made = client.post("/v1/enroll", json={"code": code}).json()
    client.post("/v1/enroll", json={"code": code})
    client.post("/v1/records", content=to_wire([make(0), make(1, site="clinic-b")]), headers=headers)
    client.post("/v1/records", content=b"x", headers=headers)
    client.get("/v1/status", headers={"Authorization": "Bearer wrong-token"})
    lines = audited(learner)
    assert [(x["actor"], x["action"], x["outcome"]) for x in lines] == [
        (made["device"], "enroll", "ok"),
        ("unknown", "enroll", "refused"),
        (device.device, "provide records", "ok"),
        (device.device, "provide records", "400"),
        ("unknown", "/v1/status", "401"),
    ]
    assert (lines[2]["held"], lines[2]["refused"]) == (1, 1)
    raw = (learner.path / "audit.jsonl").read_text()
    secrets = [code, device.token, made["token"], "wrong-token", make(0).features.hex()]
    assert not any(secret in raw for secret in secrets)
    assert (learner.path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_every_error_of_the_tree_has_a_status() -> None:
    """Also one that is written later: its nearest parent's."""

    class NewError(StorageError):
        pass

    expected: dict[type[FeatureloopError], int] = {
        RecordError: 400,
        InputError: 400,
        AuthError: 401,
        StorageError: 507,
        NewError: 507,
        PackageError: 503,
        GateError: 503,
        FeatureloopError: 503,
    }
    assert {kind: exchange.status_of(kind("x")) for kind in expected} == expected


def test_an_unexpected_fault_tells_nothing(
    client: Client, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 as JSON, without the fault's text."""

    def broken(*_args: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("featureloop.learner.ingest.Ingest.receive", broken)
    answer = client.post("/v1/records", content=b"x", headers=headers)
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_slow_body_is_given_up(client: Client, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles doesn't hold its place for ever."""
    monkeypatch.setattr(exchange, "BODY_TIMEOUT_S", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0.02)
            yield b"x"

    answer = client.post("/v1/records", content=trickle(), headers=headers)
    assert answer.status_code == 408
    assert "try again later" in answer.json()["error"]
