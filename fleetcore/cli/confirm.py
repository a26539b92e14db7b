"""Asks before an irreversible action, if a person sits at a terminal."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fleetcore.cli.exits import printable

F = TypeVar("F", bound=Callable[..., Any])

_YES = "Do not ask for confirmation."


def yes_parameter() -> click.Option:
    """``--yes``, for a command assembled from parts."""
    return click.Option(["--yes"], is_flag=True, help=_YES)


def yes_option(command: F) -> F:
    """Adds ``--yes``."""
    return click.option("--yes", is_flag=True, help=_YES)(command)


def asks() -> bool:
    """Whether a person can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(what: str, *, yes: bool) -> None:
    """Says on a terminal what will happen and asks whether to continue; a "no" ends the command with exit code 1."""
    if yes or not asks():
        return
    click.echo(printable(what), err=True)
    if not click.confirm("Go on?", err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(1)
