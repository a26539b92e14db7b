"""Signed files (DSSE envelopes in JSON): read strictly, replaced atomically."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcore.errors import Conflict, Refused
from fleetcore.wire.strict_json import StrictJsonError, dumps, loads

#: Longer than any envelope of fleetcore.
_MAX_LENGTH = 1 << 20


def read(path: Path) -> dict[str, Any]:
    """The envelope in a file. Raises Refused, naming the file."""
    with path.open("rb") as file:
        content = file.read(_MAX_LENGTH + 1)
    if len(content) > _MAX_LENGTH:
        raise Refused(f"{path} is too long for a signed file", code="limit_exceeded", limit=_MAX_LENGTH, unit="bytes")
    try:
        envelope = loads(content)
    except StrictJsonError as error:
        raise Refused(f"{path}: {error.message}", code=error.code) from error
    if not isinstance(envelope, dict):
        raise Refused(f"{path} is not a signed file", remedy="Give trust.json, or a file written by `firmware sign`")
    return envelope


def text(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> str | None:
    """The envelope in an option's file, as the text of a call's parameter."""
    return None if path is None else dumps(read(path)).decode()


def write(path: Path, envelope: Mapping[str, object], *, new: bool) -> None:
    """Writes a file completely or not at all; a ``new`` one overwrites nothing. Raises Conflict."""
    if new and path.exists():
        raise Conflict(f"{path} exists already", remedy="Name another file with --out")
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(dumps(envelope) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
