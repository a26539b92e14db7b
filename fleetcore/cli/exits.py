"""Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 refused, 6 unreachable, 7 partly done."""

import click

from fleetcore.errors import (
    ConfigError,
    Conflict,
    CredentialsRejected,
    DataFolderInUse,
    FleetError,
    NotFound,
    Refused,
    Unavailable,
)

PARTLY = 7
_CODES: tuple[tuple[type[FleetError], int], ...] = (
    (NotFound, 3),
    (DataFolderInUse, 4),
    (Conflict, 4),
    (Refused, 5),
    (CredentialsRejected, 5),
    (Unavailable, 6),
    (ConfigError, 2),
)


def exit_code(error: FleetError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def report(error: FleetError) -> None:
    """One line on stderr: code, message, remedy."""
    click.echo(f"fleetcore: {printable(str(error))} [{error.code}]", err=True)


def printable(text: str) -> str:
    """Text without control characters: a device's name must not control a terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)
