"""``fleetcore device``: register, show and change devices, and give them credentials."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Target, call, connect, fleet_option
from fleetcore.cli.exits import printable
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Conflict, Refused
from fleetcore.wire import strict_json

_COLUMNS = ("id", "type", "lifecycle", "connectivity", "last_seen", "tags")


@click.group()
def device() -> None:
    """Register, show and change devices."""


def _pairs(given: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in given:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise Refused(f"{pair!r} is no NAME=VALUE")
        try:
            found[name] = strict_json.loads(text.encode())
        except strict_json.StrictJsonError:
            found[name] = text
    return found


@device.command()
@click.argument("id")
@click.option("--type", "kind", default="device", show_default=True)
@click.option("--model")
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--capability", "capabilities", multiple=True, help="Repeatable.")
@click.option("--attribute", "attributes", multiple=True, metavar="NAME=VALUE", help="Repeatable; VALUE may be JSON.")
@click.option("--gateway", help="The gateway that speaks for it.")
@click.option("--key-id", help="SHA-256 (hex) of the public key that may enrol without a token.")
@click.option("--enroll", is_flag=True, help="Print a one-time enrolment token for it.")
@click.option("--reason", default="")
@fleet_option
@output_option
def register(
    id: str,
    kind: str,
    model: str | None,
    tags: tuple[str, ...],
    capabilities: tuple[str, ...],
    attributes: tuple[str, ...],
    gateway: str | None,
    key_id: str | None,
    enroll: bool,
    reason: str,
    at: Target,
    output: str,
) -> None:
    """Register device ID."""
    given = {"model": model, "gateway": gateway, "key_id": key_id}
    properties: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    properties |= {"tags": list(tags), "capabilities": list(capabilities), "attributes": _pairs(attributes)}
    call(at, "register_device", id, kind, properties, reason=reason)
    result: dict[str, Any] = {"device": id}
    if enroll:
        result["enrollment_token"] = call(at, "create_enrollment_token", id)
    show(result, output)


@device.command("list")
@click.option("--type", "kind")
@click.option("--tag")
@click.option("--where", help="A fleet query, as in \"reported.n > 5 and not group = 'lab'\".")
@click.option("--limit", type=click.IntRange(1))
@fleet_option
@output_option
def list_(kind: str | None, tag: str | None, where: str | None, limit: int | None, at: Target, output: str) -> None:
    """List devices."""
    show(call(at, "list_devices", type=kind, tag=tag, where=where, limit=limit), output, _COLUMNS)


@device.command("show")
@click.argument("id")
@fleet_option
@output_option
def show_(id: str, at: Target, output: str) -> None:
    """Show device ID."""
    show(call(at, "get_device", id), output)


@device.command("set")
@click.argument("id")
@click.argument("changes", nargs=-1, required=True, metavar="NAME=VALUE…")
@click.option("--reason", default="")
@fleet_option
@output_option
def set_(id: str, changes: tuple[str, ...], reason: str, at: Target, output: str) -> None:
    """Change name, model, tags, capabilities, attributes, location, gateway or key_id of device ID.

    VALUE may be JSON.
    """
    show(call(at, "update_device", id, _pairs(changes), reason=reason), output)


@device.command()
@click.argument("id")
@fleet_option
@output_option
def token(id: str, at: Target, output: str) -> None:
    """Issue a device token for ID: for devices that cannot do client certificates. Shown once."""
    show({"device": id, "token": call(at, "issue_device_token", id)}, output)


@device.command()
@click.argument("id")
@fleet_option
@output_option
def certificates(id: str, at: Target, output: str) -> None:
    """List the certificates of device ID."""
    show(call(at, "list_certificates", id), output, ("serial", "state", "not_after"))


@device.command()
@click.argument("id")
@click.option("--reason", default="")
@fleet_option
@output_option
def revoke(id: str, reason: str, at: Target, output: str) -> None:
    """Revoke every credential of device ID and end its connections."""
    show(call(at, "revoke_device", id, reason=reason), output)


@device.command()
@click.argument("id")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@fleet_option
@output_option
def history(id: str, limit: int, at: Target, output: str) -> None:
    """Show who changed what of device ID, when and why."""
    show(call(at, "device_history", id, limit=limit), output, ("time", "actor", "action", "changed", "reason"))


@device.command()
@click.argument("id")
@click.argument("query")
@fleet_option
@output_option
def why(id: str, query: str, at: Target, output: str) -> None:
    """Show whether QUERY selects device ID, which clause decided (→), and what it saw."""
    found = call(at, "explain_query", id, query)
    if output != "table":
        show(found, output)
        return
    click.echo(f"{id} is {'' if found['selected'] else 'not '}selected")
    for line in found["why"]:
        click.echo(printable(line))


@device.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
@click.option("--reason", default="")
@fleet_option
@output_option
def import_(file: Path, dry_run: bool, reason: str, at: Target, output: str) -> int:
    """Register the devices of FILE: CSV with a header, or JSONL. Each line that fails is named; exit 7 where one does.

    Importing the same file again changes nothing, so an import that broke off is simply done again.
    """
    import asyncio

    from fleetcore.cli.operation import conclude
    from fleetcore.cli.sending import send_rows

    async def run() -> tuple[dict[str, Any], Sequence[int]]:
        async with connect(at) as caller:
            return await send_rows(caller, file, dry_run=dry_run, reason=reason)

    ended, lines = asyncio.run(run())
    return conclude(ended, output, lines)


@device.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@fleet_option
def export(file: Path, at: Target) -> None:
    """Write all devices to FILE, by its name as CSV or JSONL; `import` reads it."""
    import asyncio

    from fleetcore.cli.rows import Writer
    from fleetcore.model.device import ROW_MEMBERS

    async def run() -> int:
        count, after = 0, None
        with file.open("x", encoding="utf-8", newline="") as target:
            writer = Writer(target, ROW_MEMBERS, as_csv=file.suffix.lower() == ".csv")
            async with connect(at) as caller:
                while True:
                    page = await caller.call("export_devices", after=after)
                    for row in page["items"]:
                        writer.write(row)
                    count, after = count + len(page["items"]), page["next"]
                    if after is None:
                        return count

    try:
        count = asyncio.run(run())
    except FileExistsError:
        raise Conflict(f"{file} exists already", remedy="Name another file") from None
    click.echo(f"{count} devices")


def _mover(verb: str, state: str, text: str) -> None:
    @device.command(verb, help=text)
    @click.argument("id")
    @click.option("--reason", default="")
    @fleet_option
    @output_option
    def move(id: str, reason: str, at: Target, output: str) -> None:
        show(call(at, "set_lifecycle", id, state, reason=reason), output)


_mover("suspend", "suspended", "Refuse everything of device ID until it is activated again.")
_mover("quarantine", "quarantined", "Keep and flag the telemetry of device ID; give it no commands or offers.")
_mover("activate", "active", "Let device ID work again.")
_mover("retire", "retired", "Retire device ID for good: its credentials are revoked.")


@device.command()
@click.argument("id")
@click.option("--reason", default="")
@fleet_option
@output_option
def erase(id: str, reason: str, at: Target, output: str) -> None:
    """Retire device ID and erase it with its readings and state, for good. The audit log stays."""
    show(call(at, "erase_device", id, reason=reason), output)
