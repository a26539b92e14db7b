"""``fleetcore command``: commands to devices and what became of them."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from fleetcore.cli.connect import Target, call, connect, fleet_option
from fleetcore.cli.exits import PARTLY
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Refused
from fleetcore.wire import strict_json

F = TypeVar("F", bound=Callable[..., Any])
_COLUMNS = ("id", "device", "name", "state", "sequence", "attempt", "issued_at", "code")
_ENDED_WELL = "succeeded"


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = strict_json.loads(text.encode())
    except strict_json.StrictJsonError as error:
        raise Refused(f"The value of --args is no JSON: {error.reason}") from None
    if not isinstance(found, dict):
        raise Refused("The value of --args is no JSON object")
    return found


def _how_option(command: F) -> F:
    """Adds what is the same for one device and for many."""
    for option in (
        click.option("--result-within", "result_within_s", type=Number(0, min_open=True), help="Seconds."),
        click.option("--execute-within", "execute_within_s", type=Number(0, min_open=True), help="Seconds."),
        click.option("--deliver-within", "deliver_within_s", type=Number(0, min_open=True), help="Seconds."),
        click.option("--precondition", help="A query that must select a device when it is handed the command."),
        click.option("--respond", type=click.Choice(["result", "ack", "none"]), help="What the device is to answer."),
        click.option("--lane", help="Commands of one lane come one after another; `default` if it is not given."),
        click.option("--supersede", help="Queued commands with the same key give way to this one."),
    ):
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Send commands to devices and follow them."""


@command.command()
@click.argument("device")
@click.argument("name")
@click.option("--args", "arguments", default="{}", help="A JSON object.")
@click.option("--wait", "wait_s", type=Number(0), default=0.0, help="Seconds to wait for its end.")
@click.option("--idempotency-key", help="A second call with the same key gives the first command.")
@_how_option
@click.option("--reason", default="")
@fleet_option
@output_option
def send(device: str, name: str, arguments: str, wait_s: float, at: Target, output: str, **given: Any) -> int:
    """Send the command NAME to DEVICE. With --wait the exit code is 0 only where it succeeded."""
    options = {name: value for name, value in given.items() if value is not None}
    sent = call(at, "send_command", device, name, _arguments(arguments), wait_s=wait_s, **options)
    show(sent, output)
    if not wait_s or sent["state"] == _ENDED_WELL:
        return 0
    return PARTLY if "finished_at" not in sent or not sent["finished_at"] else 1


@command.command()
@click.argument("name")
@click.option("--args", "arguments", default="{}", help="A JSON object.")
@click.option("--where", help="A fleet query that selects the devices.")
@click.option("--device", "devices", multiple=True, help="A device; repeatable.")
@click.option("--rate", "rate_per_s", type=Number(0, min_open=True), help="Devices a second.")
@click.option("--cap", type=click.IntRange(1), help="More devices than this are refused; 1000 if it is not given.")
@_how_option
@click.option("--plan", help="What --dry-run printed: reach exactly these devices, or nobody.")
@click.option("--dry-run", is_flag=True, help="Only say whom it would reach.")
@click.option("--reason", default="")
@fleet_option
@output_option
def bulk(name: str, arguments: str, plan: str | None, dry_run: bool, at: Target, output: str, **given: Any) -> int:
    """Send the command NAME to many devices, by a query or by ids."""
    import asyncio

    from fleetcore.cli.operation import conclude, follow
    from fleetcore.cli.progress import progress

    options = {name: value for name, value in given.items() if value not in (None, ())}
    if dry_run:
        wanted = {name: value for name, value in options.items() if name not in ("rate_per_s", "reason")}
        show(call(at, "plan_commands", name, _arguments(arguments), **wanted), output)
        return 0

    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            started = await caller.call("send_commands", name, _arguments(arguments), plan=plan, **options)
            with progress("sending", started["total"]) as step:
                return await follow(caller, started, step)

    return conclude(asyncio.run(run()), output)


@command.command()
@click.argument("operation")
@fleet_option
@output_option
def counts(operation: str, at: Target, output: str) -> None:
    """Count the commands of a bulk OPERATION by state."""
    show(call(at, "count_commands", operation), output)


@command.command("show")
@click.argument("id")
@fleet_option
@output_option
def show_(id: str, at: Target, output: str) -> None:
    """Show the command ID."""
    show(call(at, "get_command", id), output)


@command.command("list")
@click.argument("device", required=False)
@fleet_option
@output_option
def list_(device: str | None, at: Target, output: str) -> None:
    """List the commands of DEVICE, or all."""
    show(call(at, "list_commands", device), output, _COLUMNS)


@command.command()
@click.argument("id")
@click.option("--reason", default="")
@fleet_option
@output_option
def cancel(id: str, reason: str, at: Target, output: str) -> None:
    """Cancel the command ID, or ask the device to, where it has it already."""
    show(call(at, "cancel_command", id, reason=reason), output)
