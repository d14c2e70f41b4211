"""Live and What left in a real browser: frames are drawn with what was recognized, sharing is switched, both themes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages_rig import PASSWORD, Site, browsing, noise, serious, site
from playwright.sync_api import Browser, Page, expect

from featureloop.core.types import Frame, Recognition, Task
from featureloop.model.package import Package
from featureloop.testing import tiny_package

SOON_S = 20.0
OUTLINES = """async ([cells, side]) => {
    const { outlines } = await import('/static/outline.js');
    return outlines(Uint8Array.from(cells), side);
}"""
COLOUR = """([x, y]) => {
    const c = document.getElementById('canvas'), w = c.width, h = c.height, s = Math.min(w / 128, h / 96);
    const at = [(w - 128 * s) / 2 + x * 128 * s, (h - 96 * s) / 2 + y * 96 * s];
    return [...c.getContext('2d').getImageData(Math.round(at[0]), Math.round(at[1]), 1, 1).data.slice(0, 3)];
}"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("live-browser") / "package")


@pytest.fixture
def here(tmp_path: Path, package: Package) -> Iterator[Site]:
    with site(tmp_path, package) as found:
        yield found


@contextmanager
def looking(browser: Browser, here: Site, at: str, *, name: str = "otto", **options: Any) -> Iterator[Page]:
    """One of the pages."""
    with browsing(browser, here, name=name, **options) as page:
        page.goto(here.url + at)
        yield page


def left_half(here: Site, i: int, *, threshold: float = 0.0) -> None:
    """Show a grey frame of 128 x 96 with a lesion over its left half."""
    p = np.zeros((4, 4, 16), np.float32)
    p[:, :2] = 1.0
    frame = Frame(np.full((96, 128, 3), 120, np.uint8), "clip", index=i)
    here.live.feed.showing(here.setup.package, threshold=lambda _view: threshold)(
        frame, Recognition(Task.SEGMENTATION, p.reshape(16, 16))
    )


def until(page: Page, true: str) -> None:
    """Wait for a script's yes; Playwright's own way of waiting is closed by the pages' security policy."""
    end = time.monotonic() + SOON_S
    while not page.evaluate(true):
        assert time.monotonic() < end, f"it took too long: {true}"
        time.sleep(0.02)


def test_frames_are_drawn_with_what_was_recognized(chromium: Browser, here: Site) -> None:
    with looking(chromium, here, "/live") as page:
        expect(page.locator("#nothing")).to_be_visible()
        left_half(here, 1)
        expect(page.locator("#results .words")).to_have_text("lesion, 50% of the frame")
        expect(page.locator("#nothing")).to_be_hidden()
        expect(page.locator(".mark")).to_have_text("UNVERIFIED")
        inside, outside, edge = (page.evaluate(COLOUR, at) for at in ([0.25, 0.5], [0.8, 0.5], [0.5, 0.5]))
        assert outside == pytest.approx([120] * 3, abs=6)
        assert inside[1] - inside[0] > 15, "tinted"
        assert edge[1] > 180, "outlined"
        expect(page.locator("#results .verdict")).to_have_text("✓ above the threshold")
        assert page.locator(".gauge").get_attribute("role") == "meter"


def test_a_doubtful_result_says_so_in_words(chromium: Browser, here: Site) -> None:
    with looking(chromium, here, "/live") as page:
        here.live.feed.showing(here.setup.package, threshold=lambda _view: 1.1)(
            Frame(np.zeros((96, 128, 3), np.uint8), "clip"),
            Recognition(Task.SEGMENTATION, np.full((16, 16), 0.5, np.float32)),
        )
        expect(page.locator("#results .verdict")).to_have_text("▲ doubtful")
        assert "doubtful" in str(page.locator("#canvas").get_attribute("aria-label"))


def test_a_frame_unlike_the_founding_ones_is_said_to_be(chromium: Browser, here: Site) -> None:
    manifest = here.setup.package.manifest
    familiar = replace(manifest, calibration=replace(manifest.calibration, familiar=(0.2, 0.4)))
    package = Package(here.setup.package.path, familiar, here.setup.package.digest)
    shown = here.live.feed.showing(package, threshold=lambda _view: 0.0)
    frame = Frame(np.zeros((96, 128, 3), np.uint8), "clip")
    found = Recognition(Task.SEGMENTATION, np.full((16, 16), 0.1, np.float32))
    with looking(chromium, here, "/live") as page:
        unlike, canvas = page.locator("#results .unlike"), page.locator("#canvas")
        shown(frame, replace(found, outlying=0.1))
        expect(page.locator("#results .verdict")).to_have_text("✓ above the threshold")
        expect(unlike).to_be_hidden()
        shown(frame, replace(found, outlying=0.35))
        expect(unlike).to_be_visible()
        expect(unlike).to_have_text("≠ This frame is unlike the founding frames")
        assert "unlike the founding frames" in str(canvas.get_attribute("aria-label"))
        assert serious(page) == []
        shown(frame, replace(found, outlying=0.1))
        expect(unlike).to_be_hidden()


def test_it_keeps_up_with_a_source_and_misses_frames_when_it_can_not(chromium: Browser, here: Site) -> None:
    """The recognition goes at its own speed; what the page draws is always the newest."""
    stop = threading.Event()

    def play() -> None:
        for i in range(10_000):
            left_half(here, i)
            if stop.wait(0.005):
                return

    with looking(chromium, here, "/live") as page:
        player = threading.Thread(target=play)
        player.start()
        drawn = "Number(document.getElementById('canvas').dataset.drawn ?? 0)"
        until(page, f"{drawn} >= 10")
        number = int(page.evaluate("document.getElementById('canvas').dataset.number"))
        stop.set()
        player.join()
        assert number > page.evaluate(drawn) / 2
        newest = here.live.feed.wait(after=0, seconds=0)
        assert newest is not None
        until(page, f"Number(document.getElementById('canvas').dataset.number) === {newest.number}")


def test_sharing_is_switched_off_and_on(chromium: Browser, here: Site) -> None:
    switch = here.live.sharing.switch
    with looking(chromium, here, "/live") as page:
        expect(page.locator("#share-state")).to_have_text("Sharing is on")
        page.get_by_role("button", name="Switch off").click()
        expect(page.locator("#share-state")).to_have_text("Sharing is off")
        assert not switch.is_on()
        expect(page.locator("#share-why")).to_contain_text("otto switched it off")
        with looking(chromium, here, "/live", name="anna") as hers:
            expect(hers.locator("#share-button")).to_be_hidden()
            expect(hers.locator("#share-only")).to_have_text("Only an operator can switch it on again.")
        page.get_by_role("button", name="Switch on").click()
        expect(page.locator("#share-state")).to_have_text("Sharing is on")
        assert switch.is_on()
        switch.turn(on=False, by="somebody else")
        expect(page.locator("#share-why")).to_contain_text("somebody else")


def test_the_switch_works_without_scripts(chromium: Browser, here: Site) -> None:
    with looking(chromium, here, "/live", java_script_enabled=False) as page:
        page.get_by_role("button", name="Switch off").click()
        expect(page.locator("#share-state")).to_have_text("Sharing is off")
    assert not here.live.sharing.switch.is_on()


def test_a_device_that_goes_away_is_told(chromium: Browser, tmp_path: Path, package: Package) -> None:
    context = chromium.new_context()
    with site(tmp_path, package) as here:
        page = context.new_page()
        page.goto(here.url)
        page.fill("[name=name]", "otto")
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        left_half(here, 1)
        expect(page.locator("#results .words")).to_have_text(re.compile("lesion"))
    expect(page.locator("#nothing-why")).to_contain_text("does not answer")
    context.close()


def test_outlines_are_closed_and_where_the_mask_is(chromium: Browser, here: Site) -> None:
    with looking(chromium, here, "/live") as page:
        cells = np.zeros((8, 8), np.uint8)
        assert page.evaluate(OUTLINES, [cells.ravel().tolist(), 8]) == []
        cells[2:5, 3:7] = 255
        cells[0, 0] = cells[7, 7] = 255
        cells[6, 1] = cells[7, 2] = 255  # Two that touch at a corner.
        lines = [np.reshape(one, (-1, 2)) for one in page.evaluate(OUTLINES, [cells.ravel().tolist(), 8])]
        assert len(lines) == 5
        assert sum(_area(one) for one in lines) == pytest.approx(float(cells.mean() / 255), abs=0.05)
        box = max(lines, key=_area)
        assert box.min(axis=0) == pytest.approx([3 / 8, 2 / 8], abs=0.01)
        assert box.max(axis=0) == pytest.approx([7 / 8, 5 / 8], abs=0.01)
        corner = min(lines, key=lambda one: float(one.sum(axis=1).min()))
        assert corner.min(axis=0) == pytest.approx([0, 0], abs=1e-4)
        whole = page.evaluate(OUTLINES, [[255] * 64, 8])
        assert _area(np.reshape(whole[0], (-1, 2))) == pytest.approx(1.0, abs=1e-3)
        holed = np.full((8, 8), 255)
        holed[3:5, 3:5] = 0
        assert len(page.evaluate(OUTLINES, [holed.ravel().tolist(), 8])) == 2


def _area(points: Any) -> float:
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_pages_are_for_everybody(chromium: Browser, here: Site, scheme: str) -> None:
    here.ask(noise(2))
    case = here.queue.next("anna")
    assert case is not None
    with looking(chromium, here, "/live", color_scheme=scheme) as page:
        left_half(here, 1, threshold=1.1)
        expect(page.locator("#results .words")).to_be_visible()
        assert serious(page) == []
        here.live.sharing.switch.turn(on=False, by="otto")
        expect(page.locator("#share-state")).to_have_text("Sharing is off")
        assert serious(page) == []
        page.goto(here.url + "/left")
        assert serious(page) == []


def test_a_record_is_looked_at_by_keys_alone(chromium: Browser, here: Site) -> None:
    from featureloop.core.types import Change, ChangedBy

    here.ask(noise(1))
    case = here.queue.next("anna")
    assert case is not None
    assert here.setup.provider is not None
    here.setup.provider.answer(case.asked, Change(case.asked.recognition.targets(), ChangedBy.CLINICIAN))
    with looking(chromium, here, "/left") as page:
        page.locator(".records a").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("Record")
        expect(page.locator(".picture img").first).to_be_visible()
        until(page, "[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1024
