"""The switch for sharing: durable, seen by all, off in doubt, and written down."""

from __future__ import annotations

import json
from pathlib import Path

from featureloop.device.outbox import Outbox, State
from featureloop.device.switch import AUDIT, FILE, SharingSwitch
from featureloop.device.uplink import Uplink
from featureloop.device.uplink_thread import UplinkThread
from featureloop.testing import FakeClock, FakeWire, make_record


def test_it_is_on_until_somebody_switches_and_stays_so_over_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    switch, other = SharingSwitch(tmp_path, clock=clock), SharingSwitch(tmp_path)
    assert switch.is_on()
    switch.turn(on=False, by="anna")
    assert (switch.now().on, switch.now().by, switch.now().at) == (False, "anna", clock.now)
    assert not other.is_on(), "another process of the device sees it at once"
    assert not SharingSwitch(tmp_path).is_on()
    other.turn(on=True, by="otto")
    assert switch.is_on()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in (tmp_path / AUDIT).read_text().splitlines()]
    assert [(line["actor"], line["action"]) for line in lines] == [
        ("anna", "switch sharing off"),
        ("otto", "switch sharing on"),
    ]
    assert lines[0]["time"].startswith("2025-")


def test_what_can_not_be_read_is_off_and_says_so(tmp_path: Path) -> None:
    switch = SharingSwitch(tmp_path)
    for content in (b"", b"{}", b'{"on": 1, "by": "x", "at": 0}', b"\xff", b"[]"):
        (tmp_path / FILE).write_bytes(content)
        assert not switch.is_on(), content
        assert "switch the sharing on or off again" in str(switch.now().trouble)
    switch.turn(on=True, by="otto")
    assert switch.now().trouble is None
    assert switch.is_on()


def test_nothing_is_sent_while_it_is_off(tmp_path: Path) -> None:
    wire, on = FakeWire(), False
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        outbox.put(make_record(1), frame_key=None)
        thread = UplinkThread(Uplink(outbox, wire), may_send=lambda: on, clock=FakeClock())
        assert thread._step() > 0
        assert not wire.bodies
        assert outbox.counts()[State.PENDING] == 1
        on = True
        assert thread._step() == 0
        assert outbox.counts()[State.DELIVERED] == 1
        assert thread.status.at == FakeClock().now
