"""The real server on a real port: devices enroll, provide and update; killed, full or stopped, it loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import MakeRecord

from featureloop.core.errors import AuthError, InputError, StorageError
from featureloop.device.state import DeviceState
from featureloop.device.update import poll_update
from featureloop.device.wire import HttpWire, check_health, enroll
from featureloop.learner.auth import Auth, Enrolled
from featureloop.learner.service import Learner, open_learner, serve
from featureloop.model.package import Package
from featureloop.sharing.record import MAX_BODY, to_wire
from featureloop.sharing.together import ARROW_STREAM

PROGRAM = """
import sys, resource
from pathlib import Path
from featureloop.learner.service import open_learner, serve

learner = open_learner(Path(sys.argv[1]))
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
serve(learner, on_ready=lambda url: print(url, flush=True))
assert "torch" not in sys.modules
"""


@contextmanager
def serving(path: Path, *, largest_file: int | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process and its URL; it is stopped with SIGTERM at the end, where it still runs."""
    limit = [] if largest_file is None else [str(largest_file)]
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path), *limit]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def stored(learner: Learner) -> Counter[bytes]:
    return Counter(r.id for batch in learner.store.records(extractor=None) for r in batch)


def post(client: httpx.Client, url: str, device: Enrolled, body: bytes) -> httpx.Response:
    headers = {"Authorization": f"Bearer {device.token}", "Content-Type": ARROW_STREAM}
    return client.post(f"{url}/v1/records", content=body, headers=headers, timeout=20)


def test_a_device_enrolls_provides_and_updates(
    learner: Learner, founding: Package, successor: Package, make: MakeRecord, tmp_path: Path
) -> None:
    """The device's own client against the real server: the whole of the loop's network part."""
    with serving(learner.path) as (url, process):
        assert url.startswith("http://127.0.0.1:")
        check_health(url)
        identity = enroll(url, Auth(learner.control).invite("clinic-b"))
        with pytest.raises(AuthError):
            enroll(url, "WRONG-WRONG-WRONG-WRONG")
        wire = HttpWire(identity)
        mine = [make(i, site=identity.site, device=identity.device) for i in range(5)]
        receipt = wire.deliver(to_wire([*mine, make(99)]))
        assert receipt.held == {r.id for r in mine}
        assert list(receipt.refused) == [make(99).id]

        state = DeviceState(tmp_path / "device")
        assert poll_update(state, identity, current=founding) is None
        learner.registry.add(successor, metrics={})
        learner.registry.promote(successor.digest.hex())
        updated = poll_update(state, identity, current=founding)
        assert updated is not None
        assert updated.digest == successor.digest

        learner.auth.revoke(identity.device)
        with pytest.raises(AuthError, match="403"):
            wire.deliver(to_wire(mine))
        wire.close()
    assert process.returncode == 0
    assert stored(learner) == Counter(r.id for r in mine)


def test_a_server_killed_under_load_has_every_acknowledged_record_once(
    learner: Learner, device: Enrolled, make: MakeRecord
) -> None:
    """SIGKILL, twice, while three threads post: what was acknowledged is there, exactly once."""
    bodies = [[make(i) for i in range(start, start + 12)] for start in range(0, 600, 12)]
    sent = {r.id for records in bodies for r in records}
    acknowledged, left = set[bytes](), list(bodies)
    lock = threading.Lock()

    def load(url: str) -> None:
        with httpx.Client() as client:
            while True:
                with lock:
                    if not left:
                        return
                    records = left.pop()
                try:
                    answer = post(client, url, device, to_wire(records))
                except httpx.HTTPError:
                    with lock:
                        left.append(records)
                    return
                assert answer.status_code == 200, answer.text
                with lock:
                    acknowledged.update(bytes.fromhex(x) for x in answer.json()["held"])

    for delay_s in (0.03, 0.15):
        before = len(acknowledged)
        with serving(learner.path) as (url, process):
            threads = [threading.Thread(target=load, args=(url,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            while len(acknowledged) < before + 96 and any(t.is_alive() for t in threads):
                time.sleep(0.002)
            time.sleep(delay_s)
            process.kill()
            for thread in threads:
                thread.join()
        assert acknowledged, "the server was killed before it took anything"
    with serving(learner.path) as (url, process):
        load(url)
    assert process.returncode == 0
    assert acknowledged == sent
    assert stored(learner) == Counter(sent)
    assert learner.ingest.pending() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(learner: Learner, device: Enrolled, make: MakeRecord, number: signal.Signals) -> None:
    """What was just acknowledged is drained, and the exit status is 0."""
    with serving(learner.path) as (url, process), httpx.Client() as client:
        assert post(client, url, device, to_wire([make(i) for i in range(20)])).status_code == 200
        process.send_signal(number)
        assert process.wait(20) == 0
    assert learner.ingest.pending() == 0
    assert learner.store.counts() == {"clinic-a": 20}


def test_a_file_system_that_is_full_loses_nothing(learner: Learner, device: Enrolled, make: MakeRecord) -> None:
    """The kernel refuses to let files grow: 507, and after a restart all that was acknowledged is there."""
    acknowledged: set[bytes] = set()
    statuses: set[int] = set()
    size = max(f.stat().st_size for f in learner.path.glob("control.sqlite*"))
    with serving(learner.path, largest_file=size + (60 << 10)) as (url, _), httpx.Client() as client:
        for start in range(0, 300, 30):
            answer = post(client, url, device, to_wire([make(i) for i in range(start, start + 30)]))
            statuses.add(answer.status_code)
            if answer.status_code == 200:
                acknowledged.update(bytes.fromhex(x) for x in answer.json()["held"])
            else:
                assert list(answer.json()) == ["error"]
    assert statuses <= {200, 507}
    assert 507 in statuses
    again = open_learner(learner.path)
    again.ingest.drain()
    found = stored(again)
    assert set(found) >= acknowledged
    assert set(found.values()) <= {1}
    again.control.close()


def test_a_body_over_the_limit_is_answered(learner: Learner, device: Enrolled) -> None:
    """413 reaches a client that sends all before it listens, and the server's memory doesn't grow beyond the limit."""
    size = MAX_BODY + (8 << 20)

    def chunks() -> Iterator[bytes]:
        for _ in range(size >> 20):
            yield bytes(1 << 20)

    headers = {"Authorization": f"Bearer {device.token}", "Content-Type": ARROW_STREAM}
    with serving(learner.path) as (url, process), httpx.Client() as client:
        client.get(f"{url}/v1/health")
        for declared, growth in (({"Content-Length": str(size)}, 16 << 20), ({}, MAX_BODY + (48 << 20))):
            before = peak_bytes(process.pid)
            answer = client.post(f"{url}/v1/records", content=chunks(), headers=headers | declared, timeout=30)
            assert answer.status_code == 413
            assert peak_bytes(process.pid) - before < growth
        assert client.get(f"{url}/v1/health").status_code == 200


def peak_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return 1_024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM"))


def raw_http(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65_536):
            found += piece
    return found


def test_hostile_requests_leave_it_well(learner: Learner, device: Enrolled, make: MakeRecord) -> None:
    """Noise, broken HTTP, a body that breaks off: an error or nothing, and the next device is served."""
    lines = ["POST /v1/records HTTP/1.1", "Host: x", f"Authorization: Bearer {device.token}"]
    head = "\r\n".join([*lines, f"Content-Type: {ARROW_STREAM}", ""])
    requests: list[Callable[[], bytes]] = [
        lambda: os.urandom(2_000),
        lambda: b"GET / HTTP/9.9\r\n\r\n",
        lambda: b"GET /v1/health HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
        lambda: head.encode() + b"Content-Length: 1000\r\n\r\nonly this",
        lambda: head.encode() + b"Content-Length: -5\r\n\r\n",
        lambda: head.encode() + b"Content-Length: 99999999999999999999999\r\n\r\nx",
        lambda: head.encode() + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\nx",
        lambda: head.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]
    with serving(learner.path) as (url, process), httpx.Client() as client:
        for request in requests:
            answer = raw_http(url, request())
            assert b" 200 " not in answer.split(b"\r\n")[0]
        assert post(client, url, device, to_wire([make(0)])).status_code == 200
    assert process.returncode == 0


def test_an_address_that_is_taken_is_told(learner: Learner) -> None:
    """With what to do, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"can't listen on 127.0.0.1:{port}.*choose another"):
            serve(learner, port=port)
    with pytest.raises(InputError, match="can't listen on"):
        serve(learner, host="256.1.1.1")


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file stands in its place."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can't be made"):
        open_learner(tmp_path / "file" / "learner")


def test_opening_twice_is_the_same_learner(learner: Learner, founding: Package) -> None:
    """The command line and the server work on one directory."""
    other = open_learner(learner.path)
    live = other.registry.live(founding.line)
    assert live is not None
    assert live.digest == founding.digest
    assert other.store.version == learner.store.version
    assert learner.path.stat().st_mode & 0o777 == 0o700
    other.control.close()
