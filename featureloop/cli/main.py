"""The command line: nouns, then verbs. Results go to stdout, everything for people to stderr."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from featureloop import __version__
from featureloop.cli import audit, demo, device, learner, model, outbox, package, records
from featureloop.cli.console import people, tell
from featureloop.core.errors import EXIT_CODES, FeatureloopError

_CODES = "\n".join(f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="featureloop",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Hospitals improve each other's AI without sharing an image. Not a medical device.\n\n"
    "Start with: featureloop demo",
    epilog=f"\b\nExit codes:\n{_CODES}",
)
app.add_typer(model.app, name="model")
app.add_typer(device.app, name="device")
app.add_typer(outbox.app, name="outbox")
app.add_typer(learner.app, name="learner")
app.add_typer(package.app, name="package")
app.add_typer(records.app, name="records")
app.add_typer(audit.app, name="audit")
app.command("demo")(demo.demo)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hospitals improve each other's AI without sharing an image."""


def main() -> None:
    """Run the command line; a `FeatureloopError` becomes its message and its exit code."""
    # Threads that wait must not spin: beside another busy process that makes torch ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except FeatureloopError as error:
        people.print("error: ", style="bold red", end="")
        tell(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        tell("interrupted")
        sys.exit(130)
