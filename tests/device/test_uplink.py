"""The uplink: whatever the learner does, nothing is lost and nothing is doubled."""

from __future__ import annotations

import base64
import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureloop.core.errors import (
    AuthError,
    BodyTooLargeError,
    InputError,
    MediaTypeRefusedError,
    RecordError,
    RetryLaterError,
    StorageError,
    TransportError,
)
from featureloop.core.ports import Receipt
from featureloop.device.exchange import (
    MAX_ANSWER,
    MAX_RETRY_AFTER_S,
    check_url,
    exchange,
)
from featureloop.device.outbox import Outbox, State
from featureloop.device.state import Identity
from featureloop.device.uplink import Retry, Sent, Uplink, delay
from featureloop.device.uplink_thread import UplinkThread
from featureloop.device.wire import HttpWire, check_health, enroll
from featureloop.sharing.record import Record, from_wire, to_wire
from featureloop.sharing.together import ARROW_STREAM, MEDIA_TYPE, media_type_of, to_together
from featureloop.testing import FakeClock, FakeWire, make_record

KEY = bytes(32)
IDENTITY = Identity(learner="https://learner.test", site="site-a", device="tower-1", token="tok", keys=(KEY,))  # noqa: S106
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.sqlite", clock=clock) as opened:
        yield opened


def fill(outbox: Outbox, n: int) -> list[Record]:
    records = [make_record(i) for i in range(n)]
    for record in records:
        outbox.put(record, frame_key=None)
    return records


def make_uplink(outbox: Outbox, wire: Any, clock: FakeClock, **options: Any) -> Uplink:
    return Uplink(outbox, wire, clock=clock, sleep=clock.sleep, jitter=lambda: 1.0, **options)


def mock(handler: Handler) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(handler))


def make_wire(handler: Handler) -> HttpWire:
    return HttpWire(IDENTITY, client=mock(handler))


def answer(status: int, **options: Any) -> HttpWire:
    return make_wire(lambda _: httpx.Response(status, **options))


def learner(request: httpx.Request) -> httpx.Response:
    """A learner that takes everything."""
    assert request.headers["Authorization"] == "Bearer tok"
    assert request.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
    assert request.url == "https://learner.test/v1/records"
    return httpx.Response(200, json={"held": [r.id.hex() for r in from_wire(request.content)], "refused": {}})


def pending(outbox: Outbox) -> int:
    return outbox.counts()[State.PENDING]


def test_records_arrive_and_are_settled(outbox: Outbox, clock: FakeClock) -> None:
    """Several batches, then nothing more; the learner's word settles each record."""
    fill(outbox, 10)
    uplink = make_uplink(outbox, make_wire(learner), clock, batch=4)
    assert uplink.send_once() == Sent(delivered=4, waiting=6)
    assert uplink.drain(deadline_s=60) == Sent(delivered=6)
    assert uplink.send_once() == Sent()
    assert outbox.counts()[State.DELIVERED] == 10
    assert clock.slept == []


def test_headers_tell_nothing_of_the_machine(outbox: Outbox, clock: FakeClock) -> None:
    """Neither versions nor names nor times; what the body's length tells is in docs/explanation/privacy.md."""
    seen: list[dict[str, str]] = []

    def look(request: httpx.Request) -> httpx.Response:
        seen.append(dict(request.headers))
        return learner(request)

    fill(outbox, 1)
    make_uplink(outbox, make_wire(look), clock).send_once()
    assert seen == [
        {
            "host": "learner.test",
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": "featureloop",
            "authorization": "Bearer tok",
            "content-type": "application/vnd.apache.arrow.stream",
            "content-length": seen[0]["content-length"],
        }
    ]


def test_a_refused_record_is_kept_with_its_reason(outbox: Outbox, clock: FakeClock) -> None:
    records = fill(outbox, 3)
    wire = FakeWire(refuse={records[1].id: "unknown package"})
    assert make_uplink(outbox, wire, clock).drain(deadline_s=60) == Sent(delivered=2, refused=1)
    entry = outbox.get(records[1].id.hex()).entry
    assert (entry.state, entry.reason) == (State.REFUSED, "unknown package")


def test_it_tries_again_with_growing_waits(outbox: Outbox, clock: FakeClock) -> None:
    """Waits double; the learner's own wish counts where it is longer."""
    fill(outbox, 2)
    failures: list[Exception] = [TransportError("x"), TransportError("x"), RetryLaterError("x", after_s=30.0)]
    wire = FakeWire(failures=failures)
    assert make_uplink(outbox, wire, clock).drain(deadline_s=600) == Sent(delivered=2)
    assert clock.slept == [1.0, 2.0, 30.0]
    assert len(wire.bodies) == 4


def test_it_gives_up_after_so_many_failures_and_loses_nothing(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 2)
    wire = FakeWire(failures=[TransportError("down")] * 9)
    with pytest.raises(TransportError, match="down"):
        make_uplink(outbox, wire, clock, retry=Retry(attempts=3)).drain(deadline_s=600)
    assert (len(wire.bodies), pending(outbox)) == (3, 2)


def test_it_doesnt_wait_beyond_the_deadline(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 2)
    wire = FakeWire(failures=[RetryLaterError("busy", after_s=100.0)])
    with pytest.raises(TransportError, match="busy"):
        make_uplink(outbox, wire, clock).drain(deadline_s=60)
    assert clock.slept == []
    assert make_uplink(outbox, wire, clock).drain(deadline_s=0) == Sent(waiting=2)


def test_what_a_killed_process_had_leased_is_waited_for(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 5)
    assert len(outbox.lease(limit=3, seconds=20.0)) == 3
    wire, began = FakeWire(), clock()
    assert make_uplink(outbox, wire, clock).drain(deadline_s=60) == Sent(delivered=5)
    assert 20 <= clock() - began < 21
    outbox.put(make_record(9), frame_key=None)
    assert len(outbox.lease(limit=1, seconds=100.0)) == 1
    assert make_uplink(outbox, wire, clock).drain(deadline_s=60) == Sent(waiting=1)


def test_a_refused_device_stops_at_once(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 2)
    for status in (401, 403):
        wire = answer(status, json={"error": "token revoked"})
        with pytest.raises(AuthError, match="token revoked"):
            make_uplink(outbox, wire, clock).drain(deadline_s=60)
        assert pending(outbox) == 2


def test_a_body_that_is_too_large_is_halved(outbox: Outbox, clock: FakeClock) -> None:
    """And the next bodies start at the size that was taken."""
    fill(outbox, 32)
    sizes: list[int] = []

    def small_proxy(request: httpx.Request) -> httpx.Response:
        sizes.append(len(from_wire(request.content)))
        return httpx.Response(413, text="<html>nginx</html>") if sizes[-1] > 4 else learner(request)

    uplink = make_uplink(outbox, make_wire(small_proxy), clock, batch=16)
    assert uplink.drain(deadline_s=60) == Sent(delivered=32)
    assert sizes == [16, 8, 4, 4, 8, 4, 4, 4, 4, 4, 4]


def test_a_bad_record_is_isolated(outbox: Outbox, clock: FakeClock) -> None:
    """A learner that refuses the whole body because of one record loses only that one."""
    records = fill(outbox, 21)
    bad = {records[3].id, records[17].id}

    def strict(request: httpx.Request) -> httpx.Response:
        if bad & {r.id for r in from_wire(request.content)}:
            return httpx.Response(400, json={"error": "record is damaged"})
        return learner(request)

    assert make_uplink(outbox, make_wire(strict), clock).drain(deadline_s=60) == Sent(delivered=19, refused=2)
    assert {e.id for e in outbox.rows(state=State.REFUSED)} == bad
    assert "record is damaged" in str(outbox.get(records[3].id.hex()).entry.reason)


def test_a_learner_that_refuses_everything_loses_nothing(outbox: Outbox, clock: FakeClock) -> None:
    """Of another version, say: the records wait, and the search for a bad one ends early."""
    fill(outbox, 64)
    wire = FakeWire(failures=[RecordError("schema 2 expected")] * 1000)
    with pytest.raises(TransportError, match=r"schema 2 expected; update the device"):
        make_uplink(outbox, wire, clock).send_once()
    assert pending(outbox) == 64
    assert len(wire.bodies) < 30


def joined(records: Sequence[Record]) -> bytes:
    """Records of packages that nobody has, coded together."""
    return to_together(records, lambda _: None)


def types_of(wire: FakeWire) -> list[str]:
    return [media_type_of(body) for body in wire.bodies]


def test_records_of_a_body_are_coded_together_where_that_is_asked_for(outbox: Outbox, clock: FakeClock) -> None:
    sent = fill(outbox, 5)
    wire = FakeWire()
    assert make_uplink(outbox, wire, clock, batch=3, bodies=joined).drain(deadline_s=60).delivered == 5
    assert types_of(wire) == [MEDIA_TYPE, MEDIA_TYPE]
    assert set(wire.held) == {r.id for r in sent}


def test_a_learner_that_doesnt_know_such_bodies_gets_none_again(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 5)
    wire = FakeWire(failures=[MediaTypeRefusedError("415")])
    assert make_uplink(outbox, wire, clock, batch=3, bodies=joined).drain(deadline_s=60).delivered == 5
    assert types_of(wire) == [MEDIA_TYPE, ARROW_STREAM, ARROW_STREAM]


def test_a_body_in_which_a_fault_is_found_is_sent_again_record_by_record(outbox: Outbox, clock: FakeClock) -> None:
    """The next one is coded together again."""
    fill(outbox, 5)
    wire = FakeWire(failures=[RecordError("of a package that is unknown")])
    assert make_uplink(outbox, wire, clock, batch=3, bodies=joined).drain(deadline_s=60).delivered == 5
    assert types_of(wire) == [MEDIA_TYPE, ARROW_STREAM, MEDIA_TYPE]
    assert outbox.counts()[State.REFUSED] == 0


def test_a_body_of_records_together_that_is_too_large_is_halved(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 4)
    wire = FakeWire(failures=[BodyTooLargeError("413")])
    assert make_uplink(outbox, wire, clock, batch=4, bodies=joined).drain(deadline_s=60).delivered == 4
    assert types_of(wire) == [MEDIA_TYPE] * 3


def test_the_wire_says_of_what_type_a_body_is() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Content-Type"])
        return httpx.Response(415, json={"error": "no such type"})

    wire = make_wire(handler)
    for body in (to_wire([make_record(1)]), joined([make_record(1)])):
        with pytest.raises(MediaTypeRefusedError, match="no such type"):
            wire.deliver(body)
    assert seen == [ARROW_STREAM, MEDIA_TYPE]


def test_a_failure_in_the_middle_keeps_what_was_acknowledged(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 8)
    calls: list[int] = []

    def failing(request: httpx.Request) -> httpx.Response:
        calls.append(len(from_wire(request.content)))
        return [httpx.Response(413), learner(request), httpx.Response(503)][len(calls) - 1]

    with pytest.raises(TransportError, match="503"):
        make_uplink(outbox, make_wire(failing), clock).send_once()
    assert calls == [8, 4, 4]
    assert (outbox.counts()[State.DELIVERED], pending(outbox)) == (4, 4)


def test_records_that_the_receipt_forgets_wait_again(outbox: Outbox, clock: FakeClock) -> None:
    records = fill(outbox, 3)

    class Forgetful:
        def deliver(self, _: bytes) -> Receipt:
            return Receipt(frozenset({records[0].id}), {})

    assert make_uplink(outbox, Forgetful(), clock).send_once() == Sent(delivered=1, waiting=2)
    assert pending(outbox) == 2


ID = make_record(0).id.hex()
NONSENSE: dict[str, dict[str, Any]] = {
    "a web page": {"html": "<html>Please log in to the hospital network</html>"},
    "nothing": {"content": b""},
    "a list": {"json": [ID]},
    "no ids": {"json": {"held": [1, 2], "refused": {}}},
    "a short id": {"json": {"held": ["ab"], "refused": {}}},
    "no refused": {"json": {"held": [ID]}},
    "held as text": {"json": {"held": ID, "refused": {}}},
    "an id that was not sent": {"json": {"held": [ID, "00" * 32], "refused": {}}},
    "a refusal that was not sent": {"json": {"held": [ID], "refused": {"00" * 32: "no"}}},
    "both at once": {"json": {"held": [ID], "refused": {ID: "no"}}},
    "a huge body": {"content": b"[" * (MAX_ANSWER + 1)},
    "deep nesting": {"content": b"[" * 100_000},
    "a huge number": {"content": b'{"held": ' + b"9" * 10_000 + b"}"},
    "no text": {"content": b"\xff\xfe\x00"},
    "compressed": {"content": b"\x1f\x8b", "headers": {"Content-Encoding": "gzip"}},
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_with_status_200_is_no_receipt(outbox: Outbox, clock: FakeClock, name: str) -> None:
    """Nothing in such an answer is believed, and every record waits again."""
    fill(outbox, 2)
    # A compressed body would be decoded by httpx when the response is made, so it comes as a stream.
    options = NONSENSE[name]
    if "content" in options:
        options = {**options, "content": iter([options["content"]])}
    with pytest.raises(TransportError):
        make_uplink(outbox, answer(200, **options), clock).send_once()
    assert outbox.counts() == {s: 2 * (s is State.PENDING) for s in State}


@pytest.mark.parametrize("status", [201, 204, 302, 404, 405, 418, 429, 500, 502, 503, 507])
def test_other_answers_can_be_tried_again(status: int) -> None:
    with pytest.raises(TransportError, match=str(status)):
        answer(status, json={"error": "later"}).deliver(b"")


def test_whole_bodies_that_are_refused() -> None:
    with pytest.raises(BodyTooLargeError):
        answer(413).deliver(b"")
    for status in (400, 422):
        with pytest.raises(RecordError, match="no reason given"):
            answer(status, text="oops").deliver(b"")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("999999999999999999999", MAX_RETRY_AFTER_S),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("-5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_honoured_within_bounds(header: str, seconds: float | None) -> None:
    """Both forms of RFC 9110; what can't be read is left to the usual waits."""
    client = mock(lambda _: httpx.Response(503, headers={"Retry-After": header}))
    wire = HttpWire(IDENTITY, client=client, clock=FakeClock(now=1445412480.0))
    with pytest.raises(TransportError) as caught:
        wire.deliver(b"")
    assert getattr(caught.value, "after_s", None) == seconds


def test_a_strangers_text_is_made_plain() -> None:
    """Control characters of an answer don't reach a terminal, and a long text is cut."""
    with pytest.raises(AuthError) as caught:
        answer(403, json={"error": "\x1b[31mred\nline " + "x" * 10_000}).deliver(b"")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def httpx_errors() -> list[type[Exception]]:
    found = [c for _, c in inspect.getmembers(httpx, inspect.isclass) if issubclass(c, Exception)]
    # A conflict of cookies can't be: none are read.
    return [c for c in found if c is not httpx.CookieConflict]


@pytest.mark.parametrize("kind", [*httpx_errors(), OSError, ConnectionResetError])
def test_every_error_of_httpx_is_translated(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "what httpx says")

    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(TransportError, match=r"https://learner\.test"):
        make_wire(fail).deliver(b"")


def test_a_redirect_is_not_followed() -> None:
    """The token goes to the learner that the device is enrolled with, and to no other."""
    with pytest.raises(TransportError, match="final URL"):
        answer(302, headers={"Location": "https://elsewhere.test"}).deliver(b"")


def test_urls_that_would_show_the_token() -> None:
    """Plain HTTP only to this machine, unless it is allowed explicitly."""
    for url in ("http://localhost:8000", "http://127.0.0.9:8000/", "http://[::1]:8000", "https://learner.test"):
        assert check_url(url) == url.rstrip("/")
    for url in ("http://learner.test", "http://10.0.0.1", "http://localhost.evil.test", "http://127.0.0.1.evil.test"):
        with pytest.raises(AuthError, match="token in clear"):
            HttpWire(replace(IDENTITY, learner=url))
        assert check_url(url, allow_plain_http=True) == url
    for url in ("", "learner.test", "ftp://x", "https://", "https://u:p@x", "https://x?a=b", "https://x:port"):
        with pytest.raises(InputError):
            check_url(url)


def test_the_wait_is_bounded_and_doubles() -> None:
    retry = Retry(base_s=1.0, cap_s=10.0)
    assert [delay(retry, n, 1.0) for n in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert delay(retry, 10**9, 1.0) == 10.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**9), st.floats(0, 1))
def test_the_wait_grows_with_its_arguments(base: float, cap: float, attempt: int, jitter: float) -> None:
    """Full jitter: any share of the bound, and the bound never falls."""
    retry = Retry(base_s=base, cap_s=cap)
    assert 0.0 <= delay(retry, attempt, jitter) <= delay(retry, attempt, 1.0) <= delay(retry, attempt + 1, 1.0) <= cap


def test_enrolment(tmp_path: Path) -> None:
    """A code becomes an identity; a code that doesn't count says whom to ask."""
    good: dict[str, Any] = {
        "site": "site-a",
        "device": "tower-1",
        "token": "tok",
        "keys": [base64.b64encode(KEY).decode()],
    }

    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url == "https://learner.test/v1/enroll"
        ok = json.loads(request.content) == {"code": "1234-5678"}
        return httpx.Response(200, json=good) if ok else httpx.Response(401, json={"error": "no"})

    assert enroll("https://learner.test/", "1234-5678", client=mock(handle)) == IDENTITY
    with pytest.raises(AuthError, match=r"wrong, used or expired"):
        enroll("https://learner.test", "other", client=mock(handle))
    with pytest.raises(AuthError, match="token in clear"):
        enroll("http://learner.test", "1234-5678")
    changes: list[dict[str, Any]] = [
        {"keys": None},
        {"keys": []},
        {"keys": [KEY.hex()]},
        {"keys": good["keys"] * 17},
        {"site": "Sankt Anna"},
        {"token": None},
        {"token": "a b"},
    ]
    for change in changes:
        client = mock(lambda _, c=change: httpx.Response(200, json=good | c))  # type: ignore[misc]
        with pytest.raises(TransportError, match="is no identity"):
            enroll("https://learner.test", "1", client=client)
    for status in (400, 404, 413, 429, 500):
        client = mock(lambda _, s=status: httpx.Response(s))  # type: ignore[misc]
        with pytest.raises(TransportError):
            enroll("https://learner.test", "1", client=client)


def test_health() -> None:
    check_health("https://learner.test", client=mock(lambda _: httpx.Response(200, json={"status": "ok"})))
    for wrong in (httpx.Response(200, json={"status": "full"}), httpx.Response(503), httpx.Response(200, text="hi")):
        with pytest.raises(TransportError):
            check_health("https://learner.test", client=mock(lambda _, w=wrong: w))  # type: ignore[misc]


class _Server(ThreadingHTTPServer):
    mode = "good"
    held: set[bytes]
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        self.held = set()
        self.over = threading.Event()
        super().__init__(("127.0.0.1", port), _Answers)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A device that hangs up is what some tests are about."""


class _Answers(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mode = self.server.mode
        if mode == "silent":
            self.server.over.wait(10)
            return
        if mode == "hang up":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if mode == "no HTTP":
            self.wfile.write(b"220 mail.example.org ESMTP\r\n")
            return
        records = from_wire(body)
        self.server.held |= {r.id for r in records}
        text = json.dumps({"held": [r.id.hex() for r in records], "refused": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text) + 10 * (mode == "cut off")))
        self.end_headers()
        if mode == "drip":
            for i in range(len(text)):
                self.wfile.write(text[i : i + 1])
                self.wfile.flush()
                if self.server.over.wait(0.05):
                    return
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@contextmanager
def serving(server: _Server) -> Iterator[Identity]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield replace(IDENTITY, learner=f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def real_wire(identity: Identity, *, timeout: float = 10.0) -> Iterator[HttpWire]:
    wire = HttpWire(identity, timeout=timeout)
    try:
        yield wire
    finally:
        wire.close()


@pytest.mark.parametrize("mode", ["silent", "hang up", "no HTTP", "cut off", "drip"])
def test_a_real_learner_that_fails_then_recovers(outbox: Outbox, clock: FakeClock, mode: str) -> None:
    """Whatever happens on the network, the same records arrive once it is well."""
    records = fill(outbox, 40)
    server = _Server()
    with serving(server) as identity, real_wire(identity, timeout=0.1) as hasty, real_wire(identity) as wire:
        server.mode = mode
        started = time.monotonic()
        with pytest.raises(TransportError):
            make_uplink(outbox, hasty, clock).send_once()
        assert time.monotonic() - started < 5
        assert pending(outbox) == 40
        server.mode = "good"
        assert make_uplink(outbox, wire, clock).drain(deadline_s=60) == Sent(delivered=40)
        assert server.held == {r.id for r in records}


def test_a_learner_that_is_down(outbox: Outbox, clock: FakeClock) -> None:
    """Nobody listens at first; later somebody does, on the same port."""
    fill(outbox, 3)
    server = _Server()
    port = server.server_address[1]
    server.server_close()
    with real_wire(replace(IDENTITY, learner=f"http://127.0.0.1:{port}")) as wire:
        uplink = make_uplink(outbox, wire, clock)
        with pytest.raises(TransportError, match="can't be reached"):
            uplink.drain(deadline_s=3600)
        assert len(clock.slept) == Retry().attempts - 1
        with serving(_Server(port)):
            assert uplink.drain(deadline_s=60) == Sent(delivered=3)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit, "nothing happened for 10 s"
        time.sleep(0.005)


def test_the_thread_sends_in_the_background(outbox: Outbox, clock: FakeClock) -> None:
    """It keeps trying through failures, finds what is put later, and ends when asked."""
    fill(outbox, 5)
    wire = FakeWire(failures=[TransportError("down"), StorageError("disk"), RecordError("odd")])
    thread = UplinkThread(make_uplink(outbox, wire, clock), idle_s=0.01, jitter=lambda: 0.01)
    thread.start()
    wait_until(lambda: thread.status.delivered == 5)
    outbox.put(make_record(99), frame_key=None)
    wait_until(lambda: thread.status.delivered == 6)
    assert thread.stop()
    assert (thread.status.error, thread.status.failures) == (None, 0)
    assert len(wire.held) == 6


def test_the_thread_stops_sending_when_the_device_is_refused(outbox: Outbox, clock: FakeClock) -> None:
    fill(outbox, 2)
    wire = FakeWire(failures=[AuthError("revoked")])
    thread = UplinkThread(make_uplink(outbox, wire, clock), idle_s=0.01)
    thread.start()
    wait_until(lambda: thread.status.stopped)
    assert thread.stop()
    assert (thread.status.error, pending(outbox), len(wire.bodies)) == ("revoked", 2, 1)


def test_stopping_doesnt_wait_for_a_wait(outbox: Outbox, clock: FakeClock) -> None:
    """Neither for the next look nor for the next try."""
    fill(outbox, 2)
    wire = FakeWire(failures=[TransportError("down")] * 9)
    thread = UplinkThread(make_uplink(outbox, wire, clock), retry=Retry(base_s=60.0), jitter=lambda: 1.0)
    thread.start()
    wait_until(lambda: thread.status.failures == 1)
    started = time.monotonic()
    assert thread.stop()
    assert time.monotonic() - started < 2
    assert pending(outbox) == 2


def test_the_clinician_never_waits_for_the_learner(outbox: Outbox) -> None:
    """While a body hangs in the network, putting another record is as quick as ever."""
    fill(outbox, 2)
    server = _Server()
    server.mode = "silent"
    with serving(server) as identity, real_wire(identity) as wire:
        thread = UplinkThread(Uplink(outbox, wire))
        thread.start()
        wait_until(lambda: outbox.counts()[State.LEASED] == 2)
        started = time.monotonic()
        outbox.put(make_record(50), frame_key=None)
        assert time.monotonic() - started < 1
        server.over.set()
        assert thread.stop()
        assert pending(outbox) == 3


def test_the_answer_is_read_no_further_than_allowed() -> None:
    """An endless answer ends at the limit."""
    read: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            read.append(1000)
            yield bytes(1000)

    client = mock(lambda _: httpx.Response(200, content=endless()))
    with pytest.raises(TransportError, match="over 10000 bytes"):
        exchange(client, "GET", "https://learner.test", max_bytes=10_000)
    assert sum(read) <= 12_000


def test_a_repeat_of_an_answer_that_was_lost_is_harmless(outbox: Outbox, clock: FakeClock) -> None:
    """The learner held the records, its answer was lost: they are sent again and held once."""
    fill(outbox, 3)
    wire = FakeWire()

    class Lossy:
        def deliver(self, body: bytes) -> Receipt:
            got = wire.deliver(body)
            if len(wire.bodies) == 1:
                raise TransportError("connection lost after the body")
            return got

    assert make_uplink(outbox, Lossy(), clock).drain(deadline_s=60) == Sent(delivered=3)
    assert (len(wire.bodies), len(wire.held)) == (2, 3)
