"""What the documents promise exists: files that they link to, commands and options that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from featureloop.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    p for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if p.name not in {"CHANGELOG.md", "NOTICE.md"}
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?featureloop ([^#&|\n]*)", re.MULTILINE)
_MAKE = re.compile(r"^\s*make ([a-z-]+)", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_pages_are_found() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} <= {name(p) for p in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    relative = [link for link in links if link and "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in relative if not (page.parent / link).exists()]
    assert not missing, f"{name(page)} links to {missing}, which don't exist"


def command_lines() -> list[str]:
    """Every `featureloop ...` line in code blocks of the pages."""
    found = [line for page in PAGES for line in _COMMAND.findall(page.read_text(encoding="utf-8"))]
    return sorted({line.strip() for line in found if line.strip()})


def test_readme_names_commands() -> None:
    assert any(line.startswith("device process") for line in command_lines())


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_that_a_page_shows_is_accepted(line: str) -> None:
    """Its words, arguments and options are parsed as the command would parse them; nothing is run."""
    words = shlex.split(line)
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="featureloop")
    while hasattr(command, "commands"):
        assert words, f"'featureloop {line}' names no command"
        known = command.commands
        assert words[0] in known, f"'featureloop {line}': '{words[0]}' is none of {', '.join(known)}"
        command = known[words.pop(0)]
    with context, command.make_context(command.name, words, parent=context) as made:
        assert made.params


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {t for page in PAGES for t in _MAKE.findall(page.read_text(encoding="utf-8"))}
    assert named <= targets
