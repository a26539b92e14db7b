"""``fleetcore ca``: the CAs, expiry dates, rotation of the root, and new certificates for many devices."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.confirm import yes_option
from fleetcore.cli.connect import Remote, Target, connect, fleet_option
from fleetcore.cli.derived import command, confirmed, value
from fleetcore.cli.output import output_option, show
from fleetcore.errors import ConfigError, Refused
from fleetcore.frontends.catalogue import core

_PERIODS = ("start", "until", "count", "by")
_ENDINGS = ("device", "not_after", "renew_after", "certificate")
_DEPENDENTS = ("device", "certificates", "sole_certificate")
#: The exit code for a refused certificate.
_REFUSED = 5

_existing_file = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group()
def ca() -> None:
    """Show the CAs and what expires when, revoke certificates, and rotate the root."""


@ca.group()
def rotate() -> None:
    """Replace the root by a new one: begin, issue, retire; back undoes a step until then."""


def _add(group: click.Group, name: str, *options: click.Parameter, text: str = "", **way: Any) -> None:
    """Adds the command of a call, also further commands of it under another text."""
    call = core()[name]
    group.add_command(command(call, text or call.command, call.also.get(text, {}), options=options, **way))


# --- secrets ----------------------------------------------------------------------------------------------------------


def _passphrase(_context: click.Context, _parameter: click.Parameter, reference: str | None) -> str | None:
    """The passphrase that a reference names."""
    from fleetcore.runtime.config import secret

    return None if reference is None else secret(reference)


def _root_key() -> tuple[click.Option, click.Option]:
    return (
        click.Option(
            ["--root-key"],
            type=_existing_file,
            help="The root's key, if it is kept offline; it is read, and not stored.",
        ),
        click.Option(
            ["--root-passphrase"],
            metavar="REF",
            callback=_passphrase,
            help="The passphrase of the root's key: env:NAME or file:PATH.",
        ),
    )


def _with_root(name: str) -> Any:
    """Calls with the root's key unlocked, if a file is named."""

    def ask(
        at: Target, given: Mapping[str, Any], output: str, *, root_key: Path | None, root_passphrase: str | None
    ) -> None:
        if root_key is not None and isinstance(at, Remote):
            raise Refused(
                "A root's key must not be sent over a network", remedy="Run this on the server's machine, with --data"
            )

        async def run() -> dict[str, Any]:
            async with connect(at) as caller:
                if root_key is not None:
                    key = _text(root_key)
                    await caller.run("unlock_root_key", {"key": key, "passphrase": root_passphrase})
                done: dict[str, Any] = await caller.run(name, given)
                return done

        _stepped(at, given, asyncio.run(run()), output)

    return ask


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ConfigError("It is not a PEM file", file=str(file)) from None


# --- steps ------------------------------------------------------------------------------------------------------------


def _stepped(_at: Target, _given: Mapping[str, Any], done: dict[str, Any], output: str) -> None:
    """Shows a completed step, and on stderr the credentials that became invalid."""
    show(done, output)
    for device in done["locked_out"] if output == "table" else ():
        click.echo(f"locked out: {device}", err=True)
    for batch in done["claims"] if output == "table" else ():
        click.echo(f"now invalid: the claim certificate of {batch}", err=True)


_add(rotate, "rotate_ca", *_root_key(), text="ca rotate begin", ask=_with_root("rotate_ca"))
for _step in ("issue", "back", "retire"):
    _add(rotate, "rotate_ca", text=f"ca rotate {_step}", finish=_stepped)
_add(ca, "renew_issuing_ca", *_root_key(), ask=_with_root("renew_issuing_ca"))
_add(ca, "distrust_ca", finish=_stepped)


def _absolute(_context: click.Context, _parameter: click.Parameter, file: Path) -> str:
    return str(file.absolute())


_add(
    ca,
    "take_root_offline",
    click.Argument(
        ["file"],
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_absolute,
        help="A new file for the root's key, on the server's machine.",
    ),
    click.Option(
        ["--passphrase"],
        metavar="REF",
        callback=_passphrase,
        help="Encrypt it with this passphrase: env:NAME or file:PATH. Default: [ca] passphrase.",
    ),
)


# --- certificates -----------------------------------------------------------------------------------------------------


def _forecast(_at: Target, _given: Mapping[str, Any], found: dict[str, Any], output: str) -> dict[str, Any] | None:
    if output != "table":
        return found
    show(found["buckets"], output, _PERIODS)
    click.echo(f"{found['certificates']} certificates are valid; {found['later']} expire later than that")
    if found["next"]:
        click.echo("\nNext to end:")
        show(found["next"], output, _ENDINGS)
    click.echo(f"\nLate, past their renewal time: {found['late_count']}")
    if found["late"]:
        show(found["late"], output, _ENDINGS)
    click.echo("\nThe CAs and the server's certificates:")
    show(found["cas"], output, ("kind", "state", "name", "not_after", "due"))
    for name, ends in found["own"].items():
        click.echo(f"{name} {ends}")
    return None


_add(ca, "forecast_certificates", finish=_forecast)


def _pem(_context: click.Context, _parameter: click.Parameter, file: Path) -> str:
    return file.read_bytes().decode("ascii", "replace")


def _checked(_at: Target, _given: Mapping[str, Any], report: dict[str, Any], output: str) -> dict[str, Any]:
    """The exit code is 5 if the certificate is refused."""
    if report["valid"]:
        return report
    show(report, output)
    raise click.exceptions.Exit(_REFUSED)


_add(
    ca,
    "check_certificate",
    click.Argument(
        ["pem"], type=_existing_file, metavar="FILE", callback=_pem, help="A file with the certificate, PEM."
    ),
    finish=_checked,
)


def _lists(
    _at: Target, _given: Mapping[str, Any], answer: dict[str, Any], output: str, *, into: Path | None
) -> dict[str, Any] | None:
    if into is not None:
        into.write_text(answer["crl"], encoding="ascii")
    elif output != "table":
        return answer
    else:
        click.echo(answer["crl"], nl=False)
    return None


_add(
    ca,
    "get_revocation_lists",
    click.Option(
        ["--into"], type=click.Path(path_type=Path, dir_okay=False), help="The file to write; default: print it."
    ),
    finish=_lists,
)


@ca.command()
@click.argument("certificate", required=False, help="The certificate, by its id or its serial in hex.")
@click.option("--device", help="All credentials of this device, also tokens.")
@click.option("--reason", default="", help="The reason, for the audit log.")
@yes_option
@fleet_option
@output_option
def revoke(certificate: str | None, device: str | None, reason: str, yes: bool, at: Target, output: str) -> None:
    """Revoke CERTIFICATE, by its id or serial in hex, or with --device all credentials of a device. Ends sessions."""
    if (certificate is None) == (device is None):
        raise click.UsageError("Name a certificate, or a device with --device")
    called = core()["revoke_certificate" if device is None else "revoke_device"]
    given: Mapping[str, Any] = {"certificate": certificate} if device is None else {"device_id": device}
    show(value(at, called, {**(given if yes else confirmed(at, called, given)), "reason": reason}), output)


def _incident(_at: Target, _given: Mapping[str, Any], found: dict[str, Any], output: str) -> dict[str, Any] | None:
    if output != "table":
        return found
    show(found["dependents"], output, _DEPENDENTS)
    click.echo(f"{found['devices']} devices, {found['sole_certificate']} of them without a certificate of another CA")
    return None


_add(ca, "get_ca_incident", finish=_incident)


# --- renewal ----------------------------------------------------------------------------------------------------------


def _renew(at: Target, given: Mapping[str, Any], output: str, *, dry_run: bool, detach: bool) -> dict[str, Any] | None:
    """Plans if no plan was given, starts, and follows the operation to its end; exit 7 if some failed."""
    from fleetcore.cli.operation import conclude, follow
    from fleetcore.cli.progress import progress

    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            if dry_run or "plan" not in given:
                planned: dict[str, Any] = await caller.run("plan_renewals", given)
                if dry_run:
                    return planned
            wanted = given if "plan" in given else {**given, "plan": planned["plan"]}
            started: dict[str, Any] = await caller.run("renew_certificates", wanted)
            if detach:
                return started
            with progress("renewing", started["total"]) as step:
                return await follow(caller, started, step)

    answer = asyncio.run(run())
    if dry_run or detach:
        return answer
    if answer["state"] == "stopped":
        click.echo("Stopped: too many failed; the other devices were not asked", err=True)
    raise click.exceptions.Exit(conclude(answer, output))


_add(
    ca,
    "renew_certificates",
    click.Option(["--dry-run"], is_flag=True, help="Only show the plan: the devices, in waves."),
    click.Option(["--detach"], is_flag=True, help="Show the started operation; do not follow it."),
    ask=_renew,
)
