"""The review in a real browser: by keys alone, masks and boxes edited, in both themes, on a tablet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages_rig import Site, browsing, noise, serious, site
from playwright.sync_api import Browser, Page, expect

from featureloop.core.types import Deep, Frame
from featureloop.device.review.cases import CaseState
from featureloop.model.package import Package
from featureloop.sharing.release import decoded
from featureloop.testing import tiny_package

SOON_S = 20.0


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Package]:
    made: dict[str, Package] = {}

    def of(task: str) -> Package:
        if task not in made:
            made[task] = tiny_package(tmp_path_factory.mktemp("browser") / task, task=task)
        return made[task]

    return of


@contextmanager
def reviewing(browser: Browser, here: Site, **options: Any) -> Iterator[Page]:
    """The review, as soon as it shows how far it is."""
    with browsing(browser, here, name="anna", **options) as page:
        expect(page.locator("#open")).to_have_text(re.compile("[0-9]+"))
        yield page


def decided(page: Page, here: Site, n: int) -> None:
    """Wait until so many cases are answered, and the page shows the next one."""
    expect(page.locator("#mine")).to_have_text(str(n))
    until = time.monotonic() + SOON_S
    while here.queue.counts()[CaseState.ANSWERED] < n:
        assert time.monotonic() < until, here.queue.counts()
        time.sleep(0.02)


def test_twenty_cases_by_keys_alone(chromium: Browser, packages: Callable[[str], Package], tmp_path: Path) -> None:
    """Digits choose a class, Enter confirms, X rejects, U takes back."""
    with site(tmp_path, packages("classification")) as here:
        here.ask(noise(20))
        with reviewing(chromium, here) as page:
            for i in range(20):
                page.keyboard.press(("1", "2", "3", "Enter", "x")[i % 5])
                decided(page, here, i + 1)
            expect(page.locator("#empty")).to_be_visible()
            page.keyboard.press("u")
            expect(page.locator("#canvas")).to_be_visible()
            page.keyboard.press("2")
            decided(page, here, 20)
            expect(page.locator("#empty")).to_be_visible()
        records = here.settle()
    assert len(records) == 17  # Four of twenty were of no use, and one of them was decided anew.
    assert {r.changed_by for r in records} == {"clinician"}
    manifest = packages("classification").manifest
    results = [decoded(r.features, r.recognition or b"", r.changed, manifest).result() for r in records]
    chosen = [int(rows[0].argmax()) for rows in results]
    assert {0, 1, 2} == set(chosen)


def test_a_mask_is_edited_by_brush_eraser_polygon_and_keys(
    chromium: Browser, packages: Callable[[str], Package], tmp_path: Path
) -> None:
    with site(tmp_path, packages("segmentation")) as here:
        here.ask(noise(3))
        with reviewing(chromium, here) as page:
            box = page.locator("#canvas").bounding_box()
            assert box

            def at(x: float, y: float) -> tuple[float, float]:
                """A place in the frame of 128 x 96, which fills the canvas' width."""
                scale = min(box["width"] / 128, box["height"] / 96)
                left, top = (box["width"] - 128 * scale) / 2, (box["height"] - 96 * scale) / 2
                return box["x"] + left + x * 128 * scale, box["y"] + top + y * 96 * scale

            page.locator("#tools").get_by_text("Empty").click()
            page.mouse.move(*at(0.1, 0.25))
            page.mouse.down()
            page.mouse.move(*at(0.4, 0.25), steps=4)
            page.mouse.up()
            page.keyboard.press("p")
            for corner in ((0.5, 0.5), (0.9, 0.5), (0.9, 0.9), (0.5, 0.9)):
                page.mouse.click(*at(*corner))
            page.keyboard.press("Enter")  # Closes the polygon.
            expect(page.locator("#confirm")).to_contain_text("Keep the change")
            page.keyboard.press("e")
            page.mouse.click(*at(0.7, 0.7))
            page.keyboard.press("z")  # What the eraser took is back.
            page.keyboard.press("Enter")
            decided(page, here, 1)

            page.locator("#canvas").focus()
            page.keyboard.press("Delete")
            page.keyboard.press("b")
            for key in ("ArrowRight", "ArrowRight", "ArrowDown", " "):  # Paints a little right of the middle.
                page.keyboard.press(key)
            page.keyboard.press("Enter")
            decided(page, here, 2)
            page.keyboard.press("Delete")  # There is no lesion.
            page.keyboard.press("Enter")
            decided(page, here, 3)
        grid, drawn = here.setup.package.manifest.features.grid, []
        for number in (1, 2, 3):
            rows = here.queue.answer_of(number).rows
            assert rows is not None
            drawn.append(rows.reshape(grid, grid, 16).any(axis=2))
    first, second, third = sorted(drawn, key=lambda d: -int(d.sum()))
    assert first[grid // 4, 1]  # The brush's stroke.
    assert first[3 * grid // 4, 3 * grid // 4]  # Inside the polygon, where the eraser was taken back.
    assert not first[0, grid - 1]
    assert second.sum() >= 1
    assert not second[0].any()
    assert not third.any()


def remove_all(page: Page) -> None:
    """Remove every box that was recognized; where none is left, Delete does nothing."""
    for _ in range(40):
        page.keyboard.press("Delete")


def test_boxes_are_drawn_moved_and_removed(
    chromium: Browser, packages: Callable[[str], Package], tmp_path: Path
) -> None:
    with site(tmp_path, packages("detection")) as here:
        here.ask(noise(2))
        with reviewing(chromium, here) as page:
            remove_all(page)
            box = page.locator("#canvas").bounding_box()
            assert box
            page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
            page.mouse.up()
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("Enter")
            decided(page, here, 1)
            remove_all(page)
            page.keyboard.press("n")
            page.keyboard.press("Delete")
            page.keyboard.press("Enter")
            decided(page, here, 2)
        rows = [here.queue.answer_of(n).rows for n in (1, 2)]
    assert sorted(bool(r.any()) for r in rows if r is not None) == [False, True]


def test_window_and_level_change_the_picture(
    chromium: Browser, packages: Callable[[str], Package], tmp_path: Path
) -> None:
    frame = noise(1)[0]
    values = np.linspace(0, 4095, 96 * 128).astype(np.uint16).reshape(96, 128)
    with site(tmp_path, packages("classification")) as here:
        here.ask([Frame(frame.pixels, "ct.dcm", deep=Deep(values, 0, 4095))])
        with reviewing(chromium, here) as page:
            middle = (
                "(() => { const c = document.getElementById('canvas');"
                "return c.getContext('2d').getImageData(c.width / 2, c.height * 0.7, 1, 1).data[0] })()"
            )
            expect(page.locator("#window")).to_be_visible()
            page.wait_for_timeout(100)
            before = page.evaluate(middle)
            page.locator("#level").focus()
            page.locator("#level").fill("1000")
            page.locator("#width").fill("100")
            page.wait_for_timeout(100)
            assert page.evaluate(middle) == 255 > before
            page.get_by_text("As it was shown").click()
            page.wait_for_timeout(100)
            assert page.evaluate(middle) == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nobody_is_kept_out(chromium: Browser, packages: Callable[[str], Package], tmp_path: Path, theme: str) -> None:
    """axe-core finds nothing serious, logged out, with a case and without, at a tablet's size too."""
    with site(tmp_path, packages("multilabel")) as here:
        here.ask(noise(1))
        with reviewing(chromium, here, color_scheme=theme, has_touch=True) as page:
            page.get_by_text("Keys", exact=True).click()
            assert serious(page) == []
            page.set_viewport_size({"width": 768, "height": 1024})
            assert serious(page) == []
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            page.locator("#canvas").focus()
            page.keyboard.press("Enter")
            expect(page.locator("#empty")).to_be_visible()
            assert serious(page) == []
            page.get_by_text("Log out").click()
            expect(page.get_by_role("heading", name="Log in")).to_be_visible()
            assert serious(page) == []
