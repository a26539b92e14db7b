"""``fleetcore twin``: what is wanted of a device, and what it reports."""

import json
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import call, data_option
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Refused


@click.group()
def twin() -> None:
    """Show and change what is wanted of a device."""


def patch_of(text: str) -> dict[str, Any]:
    """A JSON object from the command line; raises Refused."""
    try:
        patch = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"The patch is no JSON: {error.msg} at column {error.colno}"
        raise Refused(message, remedy="""Write it as in '{"interval": 60}'""") from None
    if not isinstance(patch, dict):
        raise Refused("The patch is no JSON object", remedy="""Write it as in '{"interval": 60}'; null deletes""")
    return patch


@twin.command("show")
@click.argument("device")
@data_option
@output_option
def show_(device: str, data: Path, output: str) -> None:
    """Show the twin of DEVICE: desired, reported, and what differs."""
    show(call(data, "get_twin", device), output)


@twin.command("set")
@click.argument("device")
@click.argument("patch")
@click.option("--if-version", type=click.IntRange(0), help="Only where the section is at this version.")
@click.option("--reason", default="")
@data_option
@output_option
def set_(device: str, patch: str, if_version: int | None, reason: str, data: Path, output: str) -> None:
    """Merge PATCH, a JSON object (RFC 7396: null deletes), into what is desired of DEVICE."""
    show(call(data, "set_desired", device, patch_of(patch), if_version=if_version, reason=reason), output)
