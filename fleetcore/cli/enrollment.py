"""``fleetcore enrollment``: the ways by which devices come in, and who waits at the door."""

import os
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show
from fleetcore.errors import Conflict, Refused

_KEYS = ("device", "fingerprint", "state", "created", "source", "decided_by")
_TOKENS = ("id", "device", "device_type", "uses", "left", "expires", "revoked")
_BATCHES = ("id", "used", "quota", "device_type", "expires", "disabled")
_CAS = ("id", "admits", "device_type", "not_after", "nonce", "disabled")

reason_option = click.option("--reason", default="", help="Why, for the audit log.")
existing_file = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group()
def enrollment() -> None:
    """Let devices in: by keys, tokens, claim certificates and manufacturers' CAs."""


@enrollment.command("list")
@click.option("--state", type=click.Choice(["pending", "accepted", "rejected"]))
@fleet_option
@output_option
def list_(state: str | None, at: Target, output: str) -> None:
    """List keys that asked to be devices."""
    show(call(at, "list_enrollments", state), output, _KEYS)


@enrollment.command()
@click.argument("device")
@click.argument("fingerprint")
@click.option("--replace", is_flag=True, help="The device's other certificates end once this one has connected.")
@reason_option
@fleet_option
@output_option
def approve(device: str, fingerprint: str, replace: bool, reason: str, at: Target, output: str) -> None:
    """Accept the key with FINGERPRINT for DEVICE: compare it with what the device shows."""
    show(call(at, "approve_enrollment", device, fingerprint, replace=replace, reason=reason), output)


@enrollment.command()
@click.argument("device")
@click.argument("fingerprint")
@reason_option
@fleet_option
@output_option
def reject(device: str, fingerprint: str, reason: str, at: Target, output: str) -> None:
    """Reject the key with FINGERPRINT for DEVICE."""
    show(call(at, "reject_enrollment", device, fingerprint, reason=reason), output)


@enrollment.group()
def token() -> None:
    """Secrets by which devices enrol."""


@token.command()
@click.option("--device", help="The one registered device it is for; without, it enrols new devices.")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="How many new devices.")
@click.option("--hours", type=Number(0, min_open=True), default=24.0, show_default=True, help="How long it lasts.")
@click.option("--type", "kind", default="device", show_default=True, help="Type of the new devices.")
@click.option("--group", "groups", multiple=True, help="A static group they are put into; repeatable.")
@click.option("--network", "networks", multiple=True, help="A network it is good from, as 192.0.2.0/24; repeatable.")
@fleet_option
@output_option
def create(
    device: str | None,
    uses: int,
    hours: float,
    kind: str,
    groups: tuple[str, ...],
    networks: tuple[str, ...],
    at: Target,
    output: str,
) -> None:
    """Make an enrolment token. It is shown this once."""
    options: dict[str, Any] = {"uses": uses, "ttl_s": hours * 3600, "device_type": kind}
    made = call(at, "create_enrollment_token", device, groups=[*groups], networks=[*networks], **options)
    show({"token": made}, output)


@token.command("list")
@fleet_option
@output_option
def list_tokens(at: Target, output: str) -> None:
    """List enrolment tokens, without what they are."""
    show(call(at, "list_enrollment_tokens"), output, _TOKENS)


@token.command("revoke")
@click.argument("token_id")
@reason_option
@fleet_option
@output_option
def revoke_token(token_id: str, reason: str, at: Target, output: str) -> None:
    """End the enrolment token TOKEN_ID; devices that enrolled with it stay."""
    show(call(at, "revoke_enrollment_token", token_id, reason=reason), output)


@enrollment.group()
def claim() -> None:
    """Claim certificates: one for a batch in the factory, good for enrolling alone."""


@claim.command("create")
@click.argument("batch")
@click.option("--quota", type=click.IntRange(1), required=True, help="How many devices it enrols.")
@click.option("--days", type=Number(1), default=90.0, show_default=True, help="How long it lasts, up to 366.")
@click.option("--type", "kind", default="device", show_default=True, help="Type of its devices.")
@click.option("--tag", "tags", multiple=True, help="Of its devices; repeatable.")
@click.option("--model", "models", multiple=True, help="A model that devices may name; repeatable. Default: any.")
@click.option("--serials", type=existing_file, help="A file with the serials that devices may name, one a line.")
@click.option(
    "--per-minute", type=click.IntRange(1), default=60, show_default=True, help="How many may begin a minute."
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder for claim.pem, claim.key and ca.pem.",
)
@reason_option
@fleet_option
@output_option
def create_claim(
    batch: str,
    quota: int,
    days: float,
    kind: str,
    tags: tuple[str, ...],
    models: tuple[str, ...],
    serials: Path | None,
    per_minute: int,
    into: Path,
    reason: str,
    at: Target,
    output: str,
) -> None:
    """Make a claim certificate for BATCH and write it, with its key, for the factory."""
    files = {name: into / name for name in ("claim.pem", "claim.key", "ca.pem")}
    for file in files.values():
        if file.exists():
            raise Conflict(f"{file} exists", remedy="Name another folder: a key is not overwritten")
    listed = [] if serials is None else [line.strip() for line in serials.read_text().splitlines() if line.strip()]
    options: dict[str, Any] = {"days": days, "device_type": kind, "tags": [*tags], "models": [*models]}
    made = call(at, "create_claim", batch, quota, serials=listed, per_minute=per_minute, reason=reason, **options)
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, member in (("claim.pem", "certificate"), ("claim.key", "key"), ("ca.pem", "ca")):
        _write(files[name], made[member])
    shown = {"batch": batch, "expires": made["expires"], **{name: str(file) for name, file in files.items()}}
    show(shown, output)


@claim.command("list")
@fleet_option
@output_option
def list_claims(at: Target, output: str) -> None:
    """List batches, and how many of their devices have enrolled."""
    show(call(at, "list_claims"), output, _BATCHES)


@claim.command("disable")
@click.argument("batch")
@reason_option
@fleet_option
@output_option
def disable_claim(batch: str, reason: str, at: Target, output: str) -> None:
    """End enrolment by the certificate of BATCH at once; enrolled devices stay."""
    show(call(at, "disable_claim", batch, reason=reason), output)


@enrollment.group()
def manufacturer() -> None:
    """Manufacturers' CAs, whose devices may enrol by the certificate they were made with."""


@manufacturer.command()
@click.argument("name")
@click.argument("ca_file", type=existing_file)
@click.option(
    "--admits",
    type=click.Choice(["waiting", "at_once"]),
    default="waiting",
    show_default=True,
    help="Whether its devices wait for an operator.",
)
@click.option("--type", "kind", default="device", show_default=True, help="Type of its devices.")
@click.option("--model", help="Model of its devices.")
@click.option("--tag", "tags", multiple=True, help="Of its devices; repeatable.")
@reason_option
@fleet_option
@output_option
def propose(
    name: str,
    ca_file: Path,
    admits: str,
    kind: str,
    model: str | None,
    tags: tuple[str, ...],
    reason: str,
    at: Target,
    output: str,
) -> None:
    """Take the CA in CA_FILE (PEM) in as NAME; `prove` makes it count."""
    options: dict[str, Any] = {"admits": admits, "device_type": kind, "model": model, "tags": [*tags]}
    show(call(at, "propose_manufacturer", name, _pem(ca_file), reason=reason, **options), output)


@manufacturer.command()
@click.argument("name")
@click.argument("proof_file", type=existing_file)
@reason_option
@fleet_option
@output_option
def prove(name: str, proof_file: Path, reason: str, at: Target, output: str) -> None:
    """Believe the CA NAME, which has signed PROOF_FILE: a certificate whose common name is the nonce."""
    show(call(at, "prove_manufacturer", name, _pem(proof_file), reason=reason), output)


@manufacturer.command("list")
@fleet_option
@output_option
def list_manufacturers(at: Target, output: str) -> None:
    """List manufacturers' CAs."""
    show(call(at, "list_manufacturers"), output, _CAS)


@manufacturer.command("disable")
@click.argument("name")
@reason_option
@fleet_option
@output_option
def disable_manufacturer(name: str, reason: str, at: Target, output: str) -> None:
    """End enrolment by the devices of the CA NAME at once; enrolled ones stay."""
    show(call(at, "disable_manufacturer", name, reason=reason), output)


def _pem(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise Refused(
            f"{file} is no PEM file", code="certificate_invalid", remedy="Convert it: openssl x509 -inform DER -in …"
        ) from None


def _write(file: Path, text: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
