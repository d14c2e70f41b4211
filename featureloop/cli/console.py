"""What commands share: results on stdout, everything for people on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from featureloop.core.ports import Progress as ProgressPort

people = Console(stderr=True, highlight=False)
results = Console(highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def tell(text: str) -> None:
    """A line for people, on stderr; square brackets are plain text, and a path isn't broken in two."""
    people.print(text, markup=False, soft_wrap=True)


def report(data: dict[str, Any] | list[Any], *, as_json: bool, show: Callable[[], RenderableType]) -> None:
    """Print a result: JSON for programs, or a text or tables for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")
        return
    shown = show()
    results.print(shown, markup=False, soft_wrap=True) if isinstance(shown, str) else results.print(shown)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table for people; cells are plain text."""
    from rich.text import Text

    out = Table(title=title, title_justify="left", min_width=min(len(title), 100))
    for i, column in enumerate(columns):
        numbers = i > 0 and all(_starts_as_number(str(row[i])) for row in rows)
        out.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        out.add_row(*(Text(str(cell)) for cell in row))
    return out


def _starts_as_number(text: str) -> bool:
    """Whether a cell stands best under others of its column by its last digit."""
    return text.lstrip("+-")[:1].isdigit() or text in {"", "-"}


@contextmanager
def progress_bars() -> Iterator[ProgressPort]:
    """Progress bars on stderr, one for each kind of work; they vanish when done."""
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            kind = what.split(",", maxsplit=1)[0]
            if kind not in tasks:
                tasks[kind] = bars.add_task(what, total=total)
            bars.update(tasks[kind], description=what, completed=done, total=total)

        yield advance


def size_text(n: float) -> str:
    """Bytes for people: `3.1 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("the loop returns at its last unit")
