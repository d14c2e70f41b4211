"""`featureloop device user`: who may use the device's pages."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from featureloop.cli.console import AsJson, report, table
from featureloop.cli.places import State, device_state
from featureloop.device.pages.accounts import Role
from featureloop.device.review.opening import open_accounts

app = typer.Typer(no_args_is_help=True, help="Who may use the device's pages.")

Name = Annotated[str, typer.Argument(help="Lower-case letters, digits, '.', '_' and '-'. It never leaves the site.")]


@app.command()
def add(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="A reviewer decides about results, an operator runs the sharing.")
    ] = Role.REVIEWER,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody use the pages; a name that is known gets a new password and role, and its sessions end."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    with closing(open_accounts(device_state(state))) as accounts:
        accounts.add(name, password, role=role)
    report({"name": name, "role": str(role)}, as_json=as_json, show=lambda: f"{name} may log in as {role}")


@app.command()
def remove(name: Name, state: State = None, as_json: AsJson = False) -> None:
    """Take somebody's access away; open sessions end at once."""
    with closing(open_accounts(device_state(state))) as accounts:
        accounts.remove(name)
    report({"name": name, "removed": True}, as_json=as_json, show=lambda: f"{name} can't log in any more")


@app.command("list")
def list_users(state: State = None, as_json: AsJson = False) -> None:
    """List who may use the pages."""
    with closing(open_accounts(device_state(state))) as accounts:
        found = accounts.users()
    data = [{"name": name, "role": str(role)} for name, role in found]
    report(data, as_json=as_json, show=lambda: table("users", ["name", "role"], [(n, str(r)) for n, r in found]))
