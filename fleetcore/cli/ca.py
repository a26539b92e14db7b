"""``fleetcore ca``: the CAs and what ends when; one root follows another; new certificates for many devices."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.confirm import confirm, yes_option
from fleetcore.cli.connect import Remote, Target, call, connect, fleet_option
from fleetcore.cli.derived import confirmed, value
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show
from fleetcore.errors import ConfigError, Refused
from fleetcore.frontends.catalogue import core

_CAS = ("number", "kind", "state", "key", "name", "not_after", "due", "certificates", "id")
_PERIODS = ("start", "until", "count", "by")
_ENDINGS = ("device", "not_after", "renew_after", "certificate")
_DEPENDENTS = ("device", "certificates", "sole_certificate")

reason_option = click.option("--reason", default="", help="Why, for the audit log.")
existing_file = click.Path(path_type=Path, dir_okay=False, exists=True)


def _passphrase(reference: str | None) -> str | None:
    from fleetcore.runtime.config import secret

    return None if reference is None else secret(reference)


def root_key_options(command: Any) -> Any:
    """Adds ``--root-key`` and ``--root-passphrase``."""
    command = click.option("--root-passphrase", metavar="REF", help="Of the root's key: env:NAME or file:PATH.")(
        command
    )
    return click.option(
        "--root-key", type=existing_file, help="The root's key, where it is kept offline; it is read, and not kept."
    )(command)


def _with_root(at: Target, name: str, key: Path | None, passphrase: str | None, **options: Any) -> Any:
    """A call that the root's key is lent to, where one is named."""
    if key is None:
        return call(at, name, **options)
    if isinstance(at, Remote):
        raise Refused(
            "A root's key is not sent over a network", remedy="Run this on the server's own machine, with --data"
        )
    try:
        text = key.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ConfigError("It is no PEM file", file=str(key)) from None

    async def run() -> Any:
        async with connect(at) as caller:
            await caller.call("lend_root_key", text, _passphrase(passphrase))
            return await caller.call(name, **options)

    return asyncio.run(run())


@click.group()
def ca() -> None:
    """See the CAs and what ends when, revoke, and let one root follow another."""


@ca.command("show")
@fleet_option
@output_option
def show_(at: Target, output: str) -> None:
    """Show the CAs: which signs, which are trusted, when each ends and is due."""
    show(call(at, "list_cas"), output, _CAS)


@ca.command()
@click.option("--per", type=click.Choice(["week", "month"]), default="week", show_default=True)
@click.option("--periods", type=click.IntRange(1, 520), default=12, show_default=True, help="How many of them.")
@click.option("--by", type=click.Choice(["type", "group"]), help="Count by it, too.")
@click.option("--where", help="A fleet query that selects the devices.")
@click.option("--next", "most", type=click.IntRange(0, 1000), default=10, show_default=True, help="How many to name.")
@fleet_option
@output_option
def forecast(per: str, periods: int, by: str | None, where: str | None, most: int, at: Target, output: str) -> None:
    """Count the certificates that end in each of the next periods; name the next, and the late renewers."""
    found = call(at, "forecast_certificates", per=per, periods=periods, by=by, where=where, next=most)
    if output != "table":
        show(found, output)
        return
    show(found["buckets"], output, _PERIODS)
    click.echo(f"{found['certificates']} certificates live; {found['later']} end later than that")
    if found["next"]:
        click.echo("\nNext to end:")
        show(found["next"], output, _ENDINGS)
    click.echo(f"\nLate, past their time to renew: {found['late_count']}")
    if found["late"]:
        show(found["late"], output, _ENDINGS)
    click.echo("\nThe CAs and the server's own:")
    show(found["cas"], output, ("kind", "state", "name", "not_after", "due"))
    for name, ends in found["own"].items():
        click.echo(f"{name} {ends}")


@ca.command()
@click.argument("file", type=existing_file)
@fleet_option
@output_option
def check(file: Path, at: Target, output: str) -> int:
    """Judge the certificate in FILE (PEM) as if a device had shown it. Exit 5 where it is refused."""
    report = call(at, "check_certificate", file.read_bytes().decode("ascii", "replace"))
    show(report, output)
    return 0 if report["valid"] else 5


@ca.command()
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="A file to write; default: show it.")
@fleet_option
def crl(into: Path | None, at: Target) -> None:
    """Write the revocation lists of every issuing CA that has living certificates, PEM."""
    text = call(at, "get_crl")["crl"]
    if into is None:
        click.echo(text, nl=False)
    else:
        into.write_text(text, encoding="ascii")


@ca.command()
@click.argument("certificate", required=False)
@click.option("--device", help="All credentials of this device, tokens too.")
@reason_option
@yes_option
@fleet_option
@output_option
def revoke(certificate: str | None, device: str | None, reason: str, yes: bool, at: Target, output: str) -> None:
    """Revoke CERTIFICATE, by its id or serial in hex, or with --device all that a device has. Sessions end at once."""
    if (certificate is None) == (device is None):
        raise click.UsageError("Name a certificate, or a device with --device")
    called = core()["revoke_certificate" if device is None else "revoke_device"]
    given: Mapping[str, Any] = {"certificate": certificate} if device is None else {"device_id": device}
    show(value(at, called, {**(given if yes else confirmed(at, called, given)), "reason": reason}), output)


@ca.group()
def rotate() -> None:
    """One root follows another: begin, issue, retire; back takes a step back until then."""


def _stepped(done: dict[str, Any], output: str) -> None:
    show(done, output)
    for device in done["locked_out"] if output == "table" else ():
        click.echo(f"locked out: {device}", err=True)
    for batch in done["claims"] if output == "table" else ():
        click.echo(f"worthless: the claim certificate of {batch}", err=True)


@rotate.command()
@root_key_options
@reason_option
@fleet_option
@output_option
def begin(root_key: Path | None, root_passphrase: str | None, reason: str, at: Target, output: str) -> None:
    """Announce a new root: both are trusted, devices get the new bundle, the old one goes on signing."""
    _stepped(_with_root(at, "rotate_ca", root_key, root_passphrase, step="begin", reason=reason), output)


@rotate.command()
@reason_option
@fleet_option
@output_option
def issue(reason: str, at: Target, output: str) -> None:
    """Have the new root's CA sign, the server's own certificate too."""
    _stepped(call(at, "rotate_ca", "issue", reason=reason), output)


@rotate.command()
@click.option("--force", is_flag=True, help="Though devices have a certificate of the new root alone.")
@reason_option
@fleet_option
@output_option
def back(force: bool, reason: str, at: Target, output: str) -> None:
    """Take the last step back."""
    _stepped(call(at, "rotate_ca", "back", force=force, reason=reason), output)


@rotate.command()
@click.option(
    "--threshold", type=Number(0, 1), default=1.0, show_default=True, help="The share that must have confirmed."
)
@click.option("--force", is_flag=True, help="Though devices are locked out by it; they are named.")
@reason_option
@yes_option
@fleet_option
@output_option
def retire(threshold: float, force: bool, reason: str, yes: bool, at: Target, output: str) -> None:
    """End trust in the old root, for good."""
    confirm("Ends trust in the old root for good: its certificates are refused from now on.", yes=yes)
    _stepped(call(at, "rotate_ca", "retire", threshold=threshold, force=force, reason=reason), output)


@rotate.command()
@fleet_option
@output_option
def status(at: Target, output: str) -> None:
    """Show the phase, how many devices have confirmed the new bundle, and whom retiring would lock out."""
    show(call(at, "ca_rotation"), output)


@ca.command("renew-issuing")
@root_key_options
@reason_option
@fleet_option
@output_option
def renew_issuing(root_key: Path | None, root_passphrase: str | None, reason: str, at: Target, output: str) -> None:
    """Make a new issuing CA below the same root, which signs from now on; due at half the life of the one before."""
    _stepped(_with_root(at, "renew_issuing_ca", root_key, root_passphrase, reason=reason), output)


@ca.command("take-offline")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--passphrase", metavar="REF", help="Encrypt it: env:NAME or file:PATH. Default: [ca] passphrase.")
@click.option("--number", type=click.IntRange(1), help="Which root's key, where those of two are in the folder.")
@reason_option
@fleet_option
@output_option
def take_offline(file: Path, passphrase: str | None, number: int | None, reason: str, at: Target, output: str) -> None:
    """Move the root's key out of the data folder into the new FILE. Rotation asks for it, and nothing else does."""
    if isinstance(at, Remote):
        raise Refused("A root's key is not sent over a network", remedy="Run this on the server's own machine")
    options: dict[str, Any] = {"passphrase": _passphrase(passphrase), "number": number, "reason": reason}
    show(call(at, "take_root_offline", str(file.absolute()), **options), output)


@ca.command()
@click.argument("id")
@fleet_option
@output_option
def incident(id: str, at: Target, output: str) -> None:
    """Name the devices with certificates of the issuing CA ID; `sole_certificate`: they have no other."""
    found = call(at, "ca_incident", id)
    if output != "table":
        show(found, output)
        return
    show(found["dependents"], output, _DEPENDENTS)
    click.echo(f"{found['devices']} devices, {found['sole_certificate']} of them have no certificate of another CA")


@ca.command()
@click.argument("id")
@click.option("--force", is_flag=True, help="Though devices have no certificate of another CA; they are named.")
@reason_option
@yes_option
@fleet_option
@output_option
def distrust(id: str, force: bool, reason: str, yes: bool, at: Target, output: str) -> None:
    """End trust in the issuing CA with this ID, whose key is lost: every certificate of it is refused at once."""
    confirm(f"Ends trust in the issuing CA {id} for good: every certificate of it is refused at once.", yes=yes)
    _stepped(call(at, "distrust_ca", id, force=force, reason=reason), output)


@ca.command("renew-devices")
@click.option("--where", help="A fleet query that selects the devices.")
@click.option("--device", "devices", multiple=True, help="A device; repeatable.")
@click.option("--outdated", is_flag=True, help="Only those without a certificate of the CA that signs now.")
@click.option("--wave", "waves", multiple=True, help="A wave: a number or a share, 10%; repeatable. Default: 1, 10%.")
@click.option("--rate", "rate_per_s", type=Number(0, min_open=True), help="Devices a second.")
@click.option(
    "--timeout", "timeout_s", type=Number(0, min_open=True), help="Seconds that a device has. Default: a day."
)
@click.option("--max-failed", type=Number(0, 1), help="The share of failures that stops it. Default: 0.05.")
@click.option("--cap", type=click.IntRange(1), help="More devices than this are refused. Default: 1000.")
@click.option("--plan", help="What --dry-run printed: ask exactly these devices, or nobody.")
@click.option("--dry-run", is_flag=True, help="Only say whom it would ask, in which waves.")
@reason_option
@fleet_option
@output_option
def renew_devices(dry_run: bool, outdated: bool, at: Target, output: str, **given: Any) -> int:
    """Ask devices for new certificates with new keys, in waves, and follow how many come. Exit 7 where some failed."""
    from fleetcore.cli.operation import conclude, follow
    from fleetcore.cli.progress import progress

    options = {name: value for name, value in given.items() if value not in (None, ())}
    if dry_run:
        wanted = {name: options[name] for name in ("where", "devices", "waves", "cap") if name in options}
        show(call(at, "plan_renewals", outdated=outdated, **wanted), output)
        return 0

    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            started = await caller.call("renew_certificates", outdated=outdated, **options)
            with progress("renewing", started["total"]) as step:
                return await follow(caller, started, step)

    ended = asyncio.run(run())
    if ended["state"] == "stopped":
        click.echo("Stopped: too many failed; the other devices were not asked", err=True)
    return conclude(ended, output)
