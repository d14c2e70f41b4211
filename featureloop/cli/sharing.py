"""`featureloop device sharing`: the site's switch, for whoever runs the device."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from featureloop.cli.console import AsJson, report
from featureloop.cli.places import State, device_state
from featureloop.device.switch import SharingSwitch


class Turn(StrEnum):
    """What is done with the switch."""

    ON = "on"
    OFF = "off"
    STATUS = "status"


def sharing(
    turn: Annotated[Turn, typer.Argument(help="'on' and 'off' switch it; 'status' says how it stands.")] = Turn.STATUS,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Switch sharing off or on: off, nothing is provided and nothing sent, and recognition goes on.

    It stays as it is over restarts, and a device that is running follows at once.
    """
    switch = SharingSwitch(device_state(state).path)
    if turn is not Turn.STATUS:
        switch.turn(on=turn is Turn.ON, by=f"command line, {_user()}")
    now = switch.now()
    when = None if now.at is None else datetime.fromtimestamp(now.at, UTC).isoformat(timespec="seconds")
    data = {"sharing": "on" if now.on else "off", "by": now.by, "at": when, "trouble": now.trouble}
    whom = f", switched by {now.by} on {when}" if now.by else ""
    trouble = f": {now.trouble}" if now.trouble else ""
    report(data, as_json=as_json, show=lambda: f"sharing is {data['sharing']}{whom}{trouble}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user may have no name.
        return "a user without a name"
