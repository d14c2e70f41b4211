"""Where a device keeps its things: the flag, else the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featureloop.config import settings
from featureloop.device.state import DeviceState

State = Annotated[Path | None, typer.Option("--state", help="The device's directory (FEATURELOOP_DEVICE_STATE).")]


def device_state(path: Path | None) -> DeviceState:
    """The device's directory, from the flag or the settings."""
    return DeviceState(path or settings().device_state)
