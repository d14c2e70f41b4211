"""The pages' answers: roles, forms, headers, and the review from the first case to its record."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages_rig import PASSWORD, Site, client, logged_in, noise, site
from PIL import Image

from featureloop.core.types import ChangedBy, Deep, Frame
from featureloop.device.pages.guard import HEADERS, Patience
from featureloop.device.review.cases import Case
from featureloop.model.package import Package
from featureloop.testing import tiny_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("pages") / "package")


@pytest.fixture
def here(tmp_path: Path, package: Package) -> Iterator[Site]:
    with site(tmp_path, package) as found:
        found.ask(noise(3))
        yield found


PAGES = ("/", "/review", "/review/next", "/review/progress", "/review/cases/1/image", "/review/cases/1/values")


def test_nobody_sees_anything_without_logging_in(here: Site) -> None:
    for address in PAGES:
        assert client(here).get(address).status_code == 401, address
        seen = client(here).get(address, headers={"Accept": "text/html"})
        assert (seen.status_code, seen.headers["Location"]) == (303, "/login")
    for address in ("/review/cases/1/answer", "/review/undo", "/logout"):
        assert client(here).post(address).status_code == 401, address


def test_an_operator_decides_about_no_result(here: Site) -> None:
    otto = logged_in(here, "otto")
    assert otto.get("/review/next").status_code == 403
    assert otto.post("/review/cases/1/answer", json={"kind": "confirmed"}).status_code == 403


def test_a_change_from_another_sites_page_is_refused(here: Site) -> None:
    """It has the browser's cookie, but can't read the session's secret."""
    anna = logged_in(here, "anna")
    for secret in ("", "0" * 32):
        anna.headers["X-Form"] = secret
        assert anna.post("/review/cases/1/answer", json={"kind": "confirmed"}).status_code == 403
        assert anna.post("/review/undo").status_code == 403
        assert anna.post("/logout", data={"form": secret}).status_code == 403
    assert here.queue.take_answered(longer_ago_s=0) == []


def test_the_session_cookie_is_for_this_site_only(here: Site) -> None:
    cookie = client(here).post("/login", data={"name": "anna", "password": PASSWORD}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_pages_are_not_served_under_anothers_name(here: Site) -> None:
    """A name that somebody made to point to 127.0.0.1 (DNS rebinding)."""
    assert client(here).get("/login", headers={"Host": "evil.example"}).status_code == 421


def test_no_answer_can_be_framed_or_run_anothers_script(here: Site) -> None:
    anna = logged_in(here, "anna")
    for address in ("/login", "/review", "/review/next", "/static/review.js", "/nothing"):
        answer = anna.get(address, headers={"Accept": "text/html"})
        for name in HEADERS:
            assert name in answer.headers, (address, name)
    assert "frame-ancestors 'none'" in HEADERS["Content-Security-Policy"]


def test_wrong_passwords_are_answered_ever_more_slowly(here: Site) -> None:
    someone = client(here)
    codes = [someone.post("/login", data={"name": "anna", "password": "wrong"}).status_code for _ in range(4)]
    assert codes == [403, 403, 403, 429]


def test_patience_grows_and_ends() -> None:
    now = [0.0]
    patience = Patience(lambda: now[0])
    waits = []
    for _ in range(12):
        patience.failed("anna")
        waits.append(patience.wait_s("anna"))
    assert waits[:5] == [0.0, 0.0, 1.0, 2.0, 4.0]
    assert max(waits) == 60.0
    now[0] = 61.0
    assert patience.wait_s("anna") == 0.0
    assert patience.wait_s("bert") == 0.0


def test_a_login_form_is_bounded(here: Site) -> None:
    assert client(here).post("/login", data={"name": "a" * 9000}).status_code == 413
    assert client(here).post("/login", json={"name": "anna"}).status_code == 415


def test_no_decrypted_image_is_in_memory_after_logging_out(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another reader's case is decrypted anew."""
    images: list[weakref.ref[np.ndarray]] = []
    opened, fetched = here.queue.next, here.queue.case

    def watched(name: str, *, after: int | None = None) -> Case | None:
        case = opened(name, after=after)
        images.extend([] if case is None else [weakref.ref(case.asked.frame.pixels)])
        return case

    decrypted: list[int] = []
    monkeypatch.setattr(here.queue, "next", watched)
    monkeypatch.setattr(here.queue, "case", lambda number: decrypted.append(number) or fetched(number))
    anna, bert = logged_in(here, "anna"), logged_in(here, "bert")
    first, second = (some.get("/review/next").json()["number"] for some in (anna, bert))
    assert anna.get(f"/review/cases/{first}/image").status_code == 200
    assert decrypted == []
    gc.collect()
    assert any(image() is not None for image in images)
    assert anna.post("/logout", data={"form": anna.headers["X-Form"]}).status_code == 303
    end = time.monotonic() + 5.0
    while any(image() is not None for image in images) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)  # A worker thread lets go of its last answer a moment later.
    assert all(image() is None for image in images)
    assert bert.get(f"/review/cases/{second}/image").status_code == 200
    assert decrypted == [second]


def test_a_case_goes_from_the_queue_to_its_record(here: Site) -> None:
    anna = logged_in(here, "anna")
    case = anna.get("/review/next").json()
    assert (case["task"], case["height"], case["width"], case["deep"]) == ("segmentation", 96, 128, None)
    assert sum(case["result"]["runs"]) == 96 * 128
    image = anna.get(f"/review/cases/{case['number']}/image")
    assert image.headers["Content-Type"] == "image/png"
    kept = anna.post(f"/review/cases/{case['number']}/answer?seconds=1.5", json={"kind": "changed", "runs": [96 * 128]})
    assert kept.json() == {"kept": "changed, answered"}
    assert anna.get("/review/next").json()["number"] != case["number"]
    assert anna.get("/review/progress").json() == {"open": 2, "mine": 1, "median_s": 1.5}
    (record,) = here.settle()
    assert record.changed_by == str(ChangedBy.CLINICIAN)


def test_the_next_case_is_fetched_ahead_and_after_the_last_there_is_none(here: Site) -> None:
    anna = logged_in(here, "anna")
    first = anna.get("/review/next").json()["number"]
    second = anna.get(f"/review/next?after={first}").json()["number"]
    assert second != first
    for number in (1, 2, 3):
        anna.post(f"/review/cases/{number}/answer", json={"kind": "rejected"})
    assert anna.get("/review/next").status_code == 204
    assert here.settle() == []


def test_the_last_answer_comes_back(here: Site) -> None:
    anna = logged_in(here, "anna")
    assert anna.post("/review/undo").status_code == 204
    anna.post("/review/cases/2/answer", json={"kind": "confirmed"})
    assert anna.post("/review/undo").json()["number"] == 2
    assert anna.get("/review/progress").json()["open"] == 3


def test_what_others_decided_meanwhile_is_told(here: Site) -> None:
    anna, bert = logged_in(here, "anna"), logged_in(here, "bert")
    anna.post("/review/cases/1/answer", json={"kind": "confirmed"})
    late = bert.post("/review/cases/1/answer", json={"kind": "rejected"})
    assert late.status_code == 409
    assert "already" in late.json()["error"]


def test_a_wrong_answer_changes_nothing_and_says_why(here: Site) -> None:
    anna = logged_in(here, "anna")
    said = anna.post("/review/cases/1/answer", json={"kind": "changed", "runs": [5]})
    assert said.status_code == 409
    assert "runs" in said.json()["error"]
    assert anna.post("/review/cases/1/answer", content=b" " * (5 << 20)).status_code == 413
    assert anna.get("/review/progress").json()["open"] == 3


def test_deep_values_come_as_they_are(tmp_path: Path, package: Package) -> None:
    values = np.arange(96 * 128, dtype=np.uint16).reshape(96, 128)
    frame = Frame(noise(1)[0].pixels, "ct.dcm", deep=Deep(values, 100, 9000))
    with site(tmp_path, package) as here:
        here.ask([frame])
        anna = logged_in(here, "anna")
        assert anna.get("/review/next").json()["deep"] == {"low": 100, "high": 9000, "most": 12287}
        got = np.frombuffer(anna.get("/review/cases/1/values").content, "<u2")
        np.testing.assert_array_equal(got.reshape(96, 128), values)


def test_a_dispute_shows_both_answers(tmp_path: Path, package: Package) -> None:
    with site(tmp_path, package, readers=2) as here:
        here.ask(noise(1))
        anna, bert = logged_in(here, "anna"), logged_in(here, "bert")
        anna.post("/review/cases/1/answer", json={"kind": "rejected"})
        assert bert.get("/review/next").json()["answers"] == []
        bert.post("/review/cases/1/answer", json={"kind": "changed", "runs": [0, 96 * 128]})
        here.accounts.add("carl", PASSWORD, role=here.accounts.users()[0][1])
        case = logged_in(here, "carl").get("/review/next").json()
        assert case["state"] == "disputed"
        assert [a["kind"] for a in case["answers"]] == ["rejected", "changed"]
        assert sum(case["answers"][1]["runs"][1::2]) == 96 * 128


def test_images_are_the_frames_own_pixels(here: Site) -> None:
    import io

    anna = logged_in(here, "anna")
    number = anna.get("/review/next").json()["number"]
    shown = np.asarray(Image.open(io.BytesIO(anna.get(f"/review/cases/{number}/image").content)))
    assert any(np.array_equal(shown, frame.pixels) for frame in noise(3))
