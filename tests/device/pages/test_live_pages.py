"""Live and What left without a browser: who may look and switch, what is said, and the line of frames."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pages_rig import Site, client, logged_in, noise, site
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from featureloop.core.types import Frame, Recognition, Task
from featureloop.device.feed import LiveFeed
from featureloop.device.outbox import State
from featureloop.device.pages.guard import COOKIE, HEADERS
from featureloop.device.pages.live import MOST_VIEWERS, sharing_json
from featureloop.device.pages.moment import MOST_SIDE, message
from featureloop.device.sharing_now import SharingNow
from featureloop.device.switch import AUDIT, Switched
from featureloop.device.uplink_thread import UplinkStatus
from featureloop.model.package import Package
from featureloop.testing import make_record, tiny_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("live-pages") / "package")


@pytest.fixture
def here(tmp_path: Path, package: Package) -> Iterator[Site]:
    with site(tmp_path, package) as found:
        yield found


def show(here: Site, frames: list[Frame]) -> None:
    """Recognize frames into the live page."""
    runtime = here.setup.runtime
    on_page = here.live.feed.showing(runtime.package, threshold=lambda _view: 0.9)
    for frame in frames:
        on_page(frame, runtime.recognize(runtime.extract(frame.pixels)))


def line(here: Site, user: httpx.Client, **headers: str) -> ClientConnection:
    """A browser's line for frames."""
    host = here.url.removeprefix("http://")
    sent = {"Cookie": f"{COOKIE}={user.cookies.get(COOKIE)}", "Origin": here.url, **headers}
    origin = sent.pop("Origin") or None
    return connect(f"ws://{host}/live/frames", additional_headers=sent, origin=origin)  # type: ignore[arg-type]


def ask(on: ClientConnection) -> tuple[dict[str, Any], bytes]:
    """The next message: its header, and what comes after."""
    on.send("next")
    said = on.recv(timeout=10)
    if isinstance(said, str):
        return json.loads(said), b""
    length = struct.unpack("<I", said[:4])[0]
    return json.loads(said[4 : 4 + length]), said[4 + length :]


def test_frames_come_when_they_are_asked_for_the_newest_always(here: Site) -> None:
    with line(here, logged_in(here, "anna")) as on:
        show(here, noise(3))
        header, rest = ask(on)
        assert (header["number"], header["name"], header["width"], header["height"]) == (3, "2.png", 128, 96)
        result = header["results"][0]
        assert (result["task"], result["side"], result["threshold"], result["doubtful"]) == (
            "segmentation",
            16,
            0.9,
            True,
        )
        cells = np.frombuffer(rest[: 16 * 16], np.uint8)
        found = here.setup.runtime.recognize(here.setup.runtime.extract(noise(3)[2].pixels))
        assert abs(float(cells.mean()) / 255 - float(found.probabilities.mean())) < 0.01
        picture = Image.open(io.BytesIO(rest[16 * 16 :]))
        assert (picture.format, picture.size) == ("JPEG", (128, 96))
        assert ask(on)[0] == {"waiting": True, "source": None}
        show(here, noise(2))
        assert ask(on)[0]["number"] == 5


def test_a_viewer_that_asks_for_nothing_holds_nobody_up(here: Site) -> None:
    """Frames go on, and another viewer gets them, while one says nothing."""
    anna, bert = logged_in(here, "anna"), logged_in(here, "bert")
    with line(here, anna), line(here, bert) as other:
        for i in range(20):
            show(here, noise(1))
            assert ask(other)[0]["number"] == i + 1


def test_a_line_is_only_for_our_own_pages_and_who_is_logged_in(here: Site) -> None:
    anna = logged_in(here, "anna")
    for origin in ("http://evil.example", "", "null"):
        with pytest.raises(InvalidStatus):
            line(here, anna, Origin=origin)
    with pytest.raises(InvalidStatus):
        line(here, anna, Host="evil.example", Origin="http://evil.example")
    with line(here, anna, Cookie=f"{COOKIE}=nothing") as on, pytest.raises(ConnectionClosed) as closed:
        on.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_no_more_pages_than_said_look_at_once(here: Site) -> None:
    anna = logged_in(here, "anna")
    show(here, noise(1))
    with ExitStack() as lines:
        for _ in range(MOST_VIEWERS):
            ask(lines.enter_context(line(here, anna)))
        with line(here, anna) as over, pytest.raises(ConnectionClosed):
            over.recv(timeout=10)


def test_anybody_switches_off_and_an_operator_on(here: Site, tmp_path: Path) -> None:
    anna, otto, switch = logged_in(here, "anna"), logged_in(here, "otto"), here.live.sharing.switch
    form = {"form": anna.headers["X-Form"]}
    assert anna.get("/live/sharing").json()["may"] == "off"
    off = anna.post("/live/sharing", data={**form, "sharing": "off"})
    assert (off.status_code, off.json()["on"], off.json()["may"]) == (200, False, None)
    assert "anna switched it off" in off.json()["why"]
    assert not switch.is_on()
    assert anna.post("/live/sharing", data={**form, "sharing": "on"}).status_code == 403
    assert not switch.is_on()
    assert otto.get("/live/sharing").json()["may"] == "on"
    own = {"form": otto.headers["X-Form"]}
    back = otto.post("/live/sharing", data={**own, "sharing": "on"}, headers={"Accept": "text/html"})
    assert (back.status_code, back.headers["Location"]) == (303, "/live")
    assert switch.is_on()
    actors = [json.loads(text)["actor"] for text in (tmp_path / AUDIT).read_text().splitlines()]
    assert actors == ["anna", "otto"]


def test_the_switch_obeys_no_other_sites_page(here: Site) -> None:
    anna = logged_in(here, "anna")
    for data in ({"sharing": "off"}, {"sharing": "off", "form": "0" * 32}):
        assert anna.post("/live/sharing", data=data).status_code == 403
    assert anna.post("/live/sharing", data={"form": anna.headers["X-Form"], "sharing": "maybe"}).status_code == 400
    assert client(here).post("/live/sharing", data={"sharing": "off"}).status_code == 401
    assert here.live.sharing.switch.is_on()


def test_nobody_sees_anything_without_logging_in(here: Site) -> None:
    for address in ("/live", "/live/sharing", "/left", "/left/00", "/left/00/features.png"):
        assert client(here).get(address).status_code == 401, address


def test_what_left_is_listed_in_words_and_pictures(here: Site, tmp_path: Path) -> None:
    here.ask(noise(3))
    case = here.queue.next("anna")
    assert case is not None
    anna = logged_in(here, "anna")
    assert anna.post(f"/review/cases/{case.number}/answer", json={"kind": "confirmed"}).status_code == 200
    records = here.settle()
    here.outbox.put(make_record(7), frame_key=None)
    page = anna.get("/left", headers={"Accept": "text/html"})
    for name in HEADERS:
        assert name in page.headers
    assert page.text.count('<td class="when">') == 2
    assert "not here" in page.text, "of another package, whose bytes nobody here can read"
    assert "confirmed" not in page.text
    assert "clinician" in page.text
    key = records[0].id.hex()
    one = anna.get(f"/left/{key}", headers={"Accept": "text/html"}).text
    for words in (key, "no pixel, name, date, UID or free text", "nothing tells where in the image", "clinician"):
        assert words in one
    for name, size in (("features", (16, 8)), ("result", (16, 1))):
        answer = anna.get(f"/left/{key}/{name}.png")
        assert Image.open(io.BytesIO(answer.content)).size == size
    other = make_record(7).id.hex()
    assert "no longer on this device" in anna.get(f"/left/{other}", headers={"Accept": "text/html"}).text
    assert anna.get(f"/left/{other}/features.png").status_code == 409
    assert anna.get(f"/left/{'0' * 64}").status_code == 409
    assert anna.get("/left?state=nothing").status_code == 400
    assert here.outbox.counts()[State.PENDING] == 1, "nothing was changed by looking"


@pytest.mark.parametrize(
    ("now", "field", "words"),
    [
        (SharingNow(switch=Switched(True)), "why", "Images never do"),
        (SharingNow(switch=Switched(True), forbidden="its report is missing"), "why", "its report is missing"),
        (SharingNow(switch=Switched(False, "anna", 0.0)), "why", "anna switched it off"),
        (SharingNow(switch=Switched(False, trouble="it is damaged")), "trouble", "it is damaged"),
        (SharingNow(switch=Switched(True), trouble="the disk is full"), "trouble", "the disk is full"),
        (SharingNow(switch=Switched(True), waiting=1, waiting_bytes=300), "waiting", "1 record, 300 bytes"),
        (SharingNow(switch=Switched(True), today=2, today_bytes=1500, budget=10**6), "today", "1.5 kB of 1.0 MB a day"),
        (SharingNow(switch=Switched(True), uplink=UplinkStatus(stopped=True, error="revoked")), "learner", "refuses"),
        (SharingNow(switch=Switched(True), uplink=UplinkStatus(failures=2, error="gone")), "learner", "tried 2 times"),
        (SharingNow(switch=Switched(True), uplink=UplinkStatus(delivered=1, at=0.0)), "learner", "answers"),
        (SharingNow(switch=Switched(False), uplink=UplinkStatus()), "learner", "not asked"),
    ],
)
def test_how_the_sharing_stands_is_said_in_words(here: Site, now: SharingNow, field: str, words: str) -> None:
    user = here.accounts.user_of(here.accounts.log_in("anna", "reviewing eyes"))
    assert user is not None
    assert words in sharing_json(now, user)[field]


@pytest.mark.parametrize("task", ["segmentation", "detection", "classification", "multilabel"])
def test_every_task_is_said_in_words_and_drawn(task: str, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package", task=task)
    labels, outputs = package.manifest.labels, package.manifest.recognizer.outputs
    p = np.zeros((16, outputs), np.float32)
    if task == "detection":
        p, sides = np.zeros((16, 1), np.float32), np.full((16, 4), 0.5, np.float32)
        p[5] = 0.9
        found = Recognition(Task(task), p, sides)
    elif task == "segmentation":
        p[:8] = 1.0
        found = Recognition(Task(task), p)
    else:
        found = Recognition(Task(task), np.array([[0.1, 0.7, 0.2]], np.float32))
    feed = LiveFeed()
    pixels = np.zeros((10, 2 * MOST_SIDE + 2, 3), np.uint8)
    feed.showing(package, threshold=lambda _view: 0.0)(Frame(pixels, "wide"), found)
    shown = feed.wait(after=0, seconds=0)
    assert shown is not None
    said = message(shown, facts={"rate": 1.0}, now=shown.at)
    length = struct.unpack("<I", said[:4])[0]
    header, rest = json.loads(said[4 : 4 + length]), said[4 + length :]
    result = header["results"][0]
    expected = {
        "segmentation": f"{labels[0]}, 50% of the frame",
        "detection": labels[0],
        "classification": "hyperplastic",
        "multilabel": "hyperplastic",
    }
    assert (result["words"], result["doubtful"], header["age_ms"]) == (expected[task], False, None)
    assert len(result.get("boxes", [])) == (task == "detection")
    size = Image.open(io.BytesIO(rest[result.get("side", 0) ** 2 :])).size
    assert max(size) <= MOST_SIDE, "a large frame is sent reduced"
