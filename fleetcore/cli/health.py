"""``fleetcore health``: the health of the fleet, a group or a device, and its reasons."""

from collections.abc import Mapping
from typing import Any

import click

from fleetcore.cli.connect import Target
from fleetcore.cli.derived import command
from fleetcore.cli.exits import printable
from fleetcore.frontends.catalogue import core


@click.group()
def health() -> None:
    """Show the health of the fleet, a group or a device, and its reasons."""


def _findings(_at: Target, _given: Mapping[str, Any], answer: dict[str, Any], output: str) -> dict[str, Any] | None:
    if output != "table":
        return answer
    click.echo(f"{answer['device']}: {answer['health']['score']:g} of 100")
    for sentence in answer["findings"] or ["everything is healthy"]:
        click.echo(f"  {printable(sentence)}")
    click.echo(f"  (-o json shows all: {', '.join(name for name in answer if answer[name])})")
    return None


health.add_command(command(core()["diagnose_device"], core()["diagnose_device"].command, {}, finish=_findings))
