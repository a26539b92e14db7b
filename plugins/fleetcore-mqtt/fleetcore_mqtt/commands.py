"""``fleetcore mqtt``: operator commands for MQTT that the core does not have."""

import os
import shlex
from pathlib import Path

import click

from fleetcore.errors import FleetError, NotFound, Refused
from fleetcore_mqtt.broker_files import CONFIG, BrokerFiles

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def mqtt() -> None:
    """MQTT: a broker in front of fleetcore."""


@mqtt.command("broker-config")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default="./fleet-data",
    envvar="FLEETCORE_DATA",
    show_default=True,
    help="The data folder; its pki folder has the files that are not named otherwise.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to write.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8883, show_default=True, help="The port to listen on.")
@click.option("--ca", type=_FILE, help="The CA bundle for device certificates.")
@click.option("--cert", type=_FILE, help="The broker's certificate.")
@click.option("--key", type=_FILE, help="The broker's key.")
@click.option("--crl", type=_FILE, help="The revocation list of the issuing CA.")
@click.option("--service", type=_FILE, help="The certificate with which fleetcore connects.")
def broker_config(
    data: Path,
    out: Path,
    port: int,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    crl: Path | None,
    service: Path | None,
) -> None:
    """Write mosquitto.conf and its access list for a broker in front of this fleet.

    The broker requires device certificates, takes the common name as user name and client id, and lets a device use its
    own topics only. Connect fleetcore to it with `url` in [protocols.mqtt] instead of `listen`.
    """
    pki = data / "pki"
    try:
        _write(
            out,
            port,
            ca=_file(ca or pki / "ca.pem"),
            cert=_file(cert or pki / "server.pem"),
            key=_file(key or pki / "server.key"),
            crl=_file(crl or pki / "crl.pem"),
            service=_file(service or pki / "service.pem"),
        )
    except NotFound as error:
        click.echo(error, err=True)
        raise SystemExit(3) from error
    except FleetError as error:
        click.echo(error, err=True)
        raise SystemExit(5) from error
    click.echo(f"Run it: mosquitto -c {shlex.quote(str(out.resolve() / CONFIG))}")


def _file(path: Path) -> Path:
    if not path.is_file():
        raise NotFound(
            f"File {path} does not exist", remedy="`fleetcore init` creates the fleet's CA; or name the file"
        )
    return path.resolve()


def _write(out: Path, port: int, *, ca: Path, cert: Path, key: Path, crl: Path, service: Path) -> None:
    files = BrokerFiles(
        out=out.resolve(),
        port=port,
        ca=ca,
        certificate=cert,
        key=key,
        crl=crl,
        service=_common_name(service),
        user=_owner(),
    ).render()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        path = out / name
        path.write_text(text)
        # Mosquitto warns of an access list that others can read; later versions refuse it.
        path.chmod(0o600)


def _owner() -> str | None:
    if os.name != "posix":
        return None
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user may have no name
        return None


def _common_name(certificate: Path) -> str:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        subject = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
    except ValueError as error:
        raise Refused(f"{certificate} is not a certificate: {error}") from error
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise Refused(f"{certificate} has {len(names)} common names", remedy="Use the fleet's service certificate")
    return str(names[0].value)
