"""What the pages' tests share: a device's parts behind its pages, and requests of who is logged in."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from featureloop.core.types import Frame
from featureloop.device.feed import LiveFeed
from featureloop.device.left import Shelf, WhatLeft
from featureloop.device.outbox import Outbox
from featureloop.device.pages.accounts import Accounts, Role
from featureloop.device.pages.app import Parts, create_app
from featureloop.device.pages.left import Left
from featureloop.device.pages.live import Live
from featureloop.device.pages.server import PageServer
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.review.settle import Settling
from featureloop.device.sharing_now import Sharing, Tally
from featureloop.device.switch import SharingSwitch
from featureloop.device.update_thread import Setup
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Review, Share
from featureloop.sharing.record import Record

PASSWORD = "reviewing eyes"  # noqa: S105  Of users who end with their test.


@dataclass
class Site:
    """A device's parts behind its pages, with frames recognized and in the queue."""

    url: str
    queue: ReviewQueue
    outbox: Outbox
    setup: Setup
    accounts: Accounts
    policy: Policy
    live: Live
    clients: list[httpx.Client] = field(default_factory=list)

    def ask(self, frames: Sequence[Frame]) -> None:
        """Recognize frames; all are doubtful."""
        run_pipeline(frames, runtime=self.setup.runtime, provider=self.setup.provider)

    def settle(self) -> list[Record]:
        """Settle all answers, and take the records out of the outbox."""
        Settling(
            self.queue, using=lambda: self.setup, outcome=self.outbox.outcome, tell=lambda _t: None, undo_s=0.0
        ).settle()
        return list(self.outbox.lease(limit=99, seconds=60))


@contextmanager
def site(folder: Path, package: Package, *, readers: int = 1) -> Iterator[Site]:
    """A device's pages over a package, for anna and bert, who review, and otto, who operates."""
    policy = Policy(Share(threshold=1.0), review=Review(readers=readers))
    queue = ReviewQueue(folder / "review.sqlite", key=bytes(32), readers=readers)
    accounts = Accounts(folder / "users.sqlite", cost=16)
    for name, role in (("anna", Role.REVIEWER), ("bert", Role.REVIEWER), ("otto", Role.OPERATOR)):
        accounts.add(name, PASSWORD, role=role)
    with Outbox(folder / "outbox.sqlite") as outbox:
        provider = Provider(
            site="site-a", device="tower", site_key=bytes(32), package=package, policy=policy, keeper=outbox,
            reviewer=None, clock=time.time, later=queue,
        )  # fmt: skip
        setup = Setup(Runtime(package, threads=1), provider)
        switch = SharingSwitch(folder)
        live = Live(LiveFeed(), Sharing(switch=switch, tally=Tally(), outbox=outbox))
        left = Left(WhatLeft(folder / "outbox.sqlite"), Shelf(folder / "packages", lambda: package))
        parts = Parts(
            accounts=accounts, queue=queue, manifest=lambda: package.manifest, live=live, left=left, site="site-a"
        )
        with PageServer(create_app(parts)) as server:
            found = Site(server.url, queue, outbox, setup, accounts, policy, live)
            yield found
            for one in found.clients:
                one.close()
    queue.close()
    accounts.close()


def noise(n: int, *, shape: tuple[int, int] = (96, 128)) -> list[Frame]:
    """Frames that differ."""
    pixels = np.random.default_rng(n).integers(0, 256, (n, *shape, 3)).astype(np.uint8)
    return [Frame(p, f"{i}.png", group=f"patient {i}") for i, p in enumerate(pixels)]


def client(here: Site) -> httpx.Client:
    """A browser's requests, without a browser."""
    made = httpx.Client(base_url=here.url, headers={"Accept": "application/json"})
    here.clients.append(made)
    return made


def logged_in(here: Site, name: str) -> httpx.Client:
    """The same of somebody who is logged in, with the session's secret in every request."""
    found = client(here)
    assert found.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    page = found.get("/nowhere", headers={"Accept": "text/html"})
    secret = re.search(r'name="form" (?:content|value)="(\w+)"', page.text)
    assert secret, page.text
    found.headers["X-Form"] = secret.group(1)
    return found


@contextmanager
def browsing(browser: Browser, here: Site, *, name: str, **options: Any) -> Iterator[Page]:
    """A page of who is logged in; an error in its scripts fails the test."""
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1024, "height": 700}, **options)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(here.url)
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("nav")
    yield page
    assert errors == []
    context.close()


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps people out."""
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:90]}" for v in found if v["impact"] in ("serious", "critical")]
