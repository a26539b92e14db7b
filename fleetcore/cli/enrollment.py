"""``fleetcore enrollment``: the ways by which devices enrol, and the keys that wait for an operator."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fleetcore.cli.connect import Target
from fleetcore.cli.derived import command
from fleetcore.cli.numbers import Number
from fleetcore.errors import Conflict, Refused
from fleetcore.files import make_private
from fleetcore.frontends.catalogue import core

_EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)
#: File → the member of the answer that is written into it.
_FOR_THE_FACTORY = {"claim.pem": "certificate", "claim.key": "key", "ca.pem": "ca"}


@click.group()
def enrollment() -> None:
    """Let devices enrol: with keys, tokens, claim certificates and manufacturers' CAs."""


@enrollment.group()
def token() -> None:
    """Secrets with which devices enrol."""


@enrollment.group()
def claim() -> None:
    """Claim certificates: one per production batch, valid only for enrolling."""


@enrollment.group()
def manufacturer() -> None:
    """Manufacturers' CAs, whose devices may enrol with their factory certificate."""


def _add(group: click.Group, name: str, *options: click.Parameter, finish: Any = None) -> None:
    call = core()[name]
    group.add_command(command(call, call.command, {}, options=options, finish=finish))


# --- keys that asked --------------------------------------------------------------------------------------------------


def _key(_context: click.Context, _parameter: click.Parameter, words: Sequence[str]) -> str:
    """DEVICE:FINGERPRINT, as one word or two."""
    if len(words) > 2:
        raise click.UsageError("Give DEVICE and FINGERPRINT, or DEVICE:FINGERPRINT")
    return ":".join(words)


def _device_and_fingerprint() -> click.Argument:
    said = "The device's id, and the SHA-256 of its public key, as the list shows it."
    return click.Argument(
        ["enrollment"], nargs=-1, required=True, metavar="DEVICE FINGERPRINT", callback=_key, help=said
    )


_add(enrollment, "approve_enrollment", _device_and_fingerprint())
_add(enrollment, "reject_enrollment", _device_and_fingerprint())


# --- tokens -----------------------------------------------------------------------------------------------------------


def _in_seconds(_context: click.Context, _parameter: click.Parameter, hours: float) -> str:
    return repr(hours * 3600)


_HOURS = click.Option(
    ["--hours", "ttl_s"],
    type=Number(0, min_open=True),
    default=24,
    show_default=True,
    callback=_in_seconds,
    help="Its validity.",
)
_add(token, "create_enrollment_token", _HOURS)


# --- claim certificates -----------------------------------------------------------------------------------------------


def _lines(_context: click.Context, _parameter: click.Parameter, file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    return tuple(line.strip() for line in file.read_text().splitlines() if line.strip())


def _without_files(_context: click.Context, _parameter: click.Parameter, folder: Path) -> Path:
    for name in _FOR_THE_FACTORY:
        if (folder / name).exists():
            raise Conflict(f"{folder / name} exists", remedy="Name another folder: existing keys are not overwritten")
    return folder


def _written(
    _at: Target, _given: Mapping[str, Any], answer: Mapping[str, Any], _output: str, *, into: Path
) -> dict[str, Any]:
    make_private(into)
    for name, member in _FOR_THE_FACTORY.items():
        handle = os.open(into / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(answer[member])
    files = {name: str(into / name) for name in _FOR_THE_FACTORY}
    return {"batch": answer["batch"], "expires": answer["expires"], **files}


_SERIALS = click.Option(
    ["--serials"],
    type=_EXISTING,
    callback=_lines,
    help="A file with the serials that its devices may use, one per line. By default any.",
)
_INTO = click.Option(
    ["--into"],
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    callback=_without_files,
    help="The folder for claim.pem, claim.key and ca.pem.",
)
_add(claim, "create_claim", _SERIALS, _INTO, finish=_written)


# --- manufacturers' CAs -----------------------------------------------------------------------------------------------


def _pem(_context: click.Context, _parameter: click.Parameter, file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise Refused(
            f"{file} is not a PEM file", code="certificate_invalid", remedy="Convert it: openssl x509 -inform DER -in …"
        ) from None


def _pem_argument(name: str, metavar: str, said: str) -> click.Argument:
    return click.Argument([name], type=_EXISTING, metavar=metavar, callback=_pem, help=said)


_add(
    manufacturer, "propose_manufacturer", _pem_argument("pem", "CA_FILE", "A file with the certificate of the CA, PEM.")
)
_add(
    manufacturer,
    "prove_manufacturer",
    _pem_argument("proof", "PROOF_FILE", "A file with the certificate that the CA issued as a proof, PEM."),
)
