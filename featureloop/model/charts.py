"""How reports draw: charts and pictures as data URLs, so that a page is one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

ACCENT = "#0b7a75"
SOFT = "#9bb0ae"
COLOURS = (ACCENT, "#c25b12", "#5a4fcf", "#a3195b", "#4b7f1e", "#1f6fb2", "#8a6d00", "#7a3b2e")


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture as a data URL, and what it shows."""

    image: str
    text: str


def new_axes(title_x: str, title_y: str, *, width: float = 4.2, height: float = 3.6) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, named; `width` and `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(title_x)
    axes.set_ylabel(title_y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def drawn(figure: Any, text: str) -> Chart:
    """A matplotlib figure as a chart."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return Chart(f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}", text)


def picture_url(picture: Image.Image) -> str:
    """A picture as a data URL of a JPEG."""
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
