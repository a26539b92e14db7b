"""``fleetcore init``: creates a data folder with a commented fleet.toml, the CA, the server's certificate and keys."""

import asyncio
import contextlib
import ipaddress
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from fleetcore import files
from fleetcore.errors import Conflict, Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.model.names import check_fleet

_TOML = """\
# The fleet's configuration. Every key is in docs/reference/configuration.md; an unknown one is refused with a hint.

[fleet]
name = "{name}"
# The data folder, relative to this file.
data = "."
# One-file plugins, relative to this file: plugins = ["./my_detector.py"]
# Names and addresses by which devices reach the server; they are in its certificate.
hosts = [{hosts}]

{protocols}
# A detector instance; `kind` defaults to its name. `metrics` restricts its readings.
[detectors.statistical]

# [detectors.too-hot]
# kind = "threshold"
# metrics = ["temperature"]
# above = 60.0

[notifiers.log]

# Without this section readings are kept forever: docs/how-to/keep-readings-for-a-limited-time.md.
# [retention]
# default_days = 365

# Limits of what devices may send; these are the defaults.
# [limits]
# message_bytes = 262144
# rate_per_s = 100.0
# burst = 1000
"""

_LISTEN = {
    "http": '# HTTPS for devices: enrolment, telemetry, commands, firmware.\n[protocols.http]\nlisten = "https://{host}:8443"\n',
    "mqtt": (
        '# fleetcore is the MQTT endpoint. To use a broker instead: url = "mqtts://broker.example:8883"\n'
        '[protocols.mqtt]\nlisten = "mqtts://{host}:8883"\n'
    ),
    # Commented out: these ports stay closed until an operator opens them.
    "websocket": (
        "# Telemetry, commands and desired state on one connection, also for browsers.\n"
        '# [protocols.websocket]\n# listen = "wss://{host}:8445"\n'
    ),
    "coap": '# CoAP over DTLS for constrained devices.\n# [protocols.coap]\n# listen = "coaps://{host}:5684"\n',
}


def _check_address(listen: str) -> None:
    try:
        ipaddress.ip_address(listen)
    except ValueError:
        message = f"{listen!r} is not an address to listen on"
        raise Refused(message, code="name_invalid", remedy="Name an IP address of this machine") from None


@click.command()
@click.argument(
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="./fleet-data",
    help="The folder, made if it is not there.  [default: ./fleet-data]",
)
@click.option("--name", default="default", show_default=True, help="The fleet's name: 1-32 of a-z 0-9 -.")
@click.option("--host", "hosts", multiple=True, help="A name or address by which devices reach the server; repeatable.")
@click.option("--listen", default="0.0.0.0", show_default=True, help="The address to listen on.")  # noqa: S104 - devices come from outside; every listener demands TLS
def init(folder: Path, name: str, hosts: tuple[str, ...], listen: str) -> None:
    """Make FOLDER (default ./fleet-data) a data folder. An existing fleet.toml is used; nothing is overwritten."""
    make_data_folder(folder, name, hosts, listen)
    click.echo(f"Created {folder}: fleet.toml, the CA and the keys under pki/ (back them up: they cannot be replaced).")
    click.echo(f"Next: fleetcore serve --data {shlex.quote(str(folder))}")


def make_data_folder(
    folder: Path, name: str, hosts: tuple[str, ...], listen: str, *, more: str = "", clock: Clock | None = None
) -> None:
    """Makes a data folder; ``more`` is appended to its fleet.toml, and ``clock`` dates its CA.

    Raises:
        Conflict: it is a data folder already.
        Refused: the name or the address is invalid.
    """
    from fleetcore.frontends.library import IoTFleetManager
    from fleetcore.runtime.config import load
    from fleetcore.runtime.plugins import PluginHost

    check_fleet(name)
    _check_address(listen)
    file = folder / "fleet.toml"
    if any((folder / part).exists() for part in ("pki", "fleet.db")) or (file.exists() and load(file).fleet.id):
        raise Conflict(f"{folder} is already a data folder", remedy="Name another folder, or remove this one yourself")
    installed = PluginHost().offers("protocols")
    at = f"[{listen}]" if ":" in listen else listen
    protocols = "\n".join(text.format(host=at) for kind, text in _LISTEN.items() if kind in installed)
    names = dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1"))
    text = _TOML.format(
        name=name,
        # A JSON text is a TOML text: any characters of a name stay within its quotes.
        hosts=", ".join(json.dumps(name) for name in names),
        protocols=protocols or "# No network protocol is installed: pip install fleetcore-http fleetcore-mqtt\n",
    )

    async def make() -> None:
        async with IoTFleetManager(folder, create=True, clock=clock):
            pass

    with _all_or_nothing(folder):
        folder.chmod(0o700)
        if not file.exists():
            file.touch(0o600)
            file.write_text(text + more, encoding="utf-8")
        asyncio.run(make())


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Creates the folder; on an error everything created is deleted, or it would block the next try."""
    mine = not folder.exists()
    files.make_private(folder)
    there = set(folder.iterdir())
    try:
        yield
    except BaseException:
        for made in set(folder.iterdir()) - there:
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        if mine:
            folder.rmdir()
        raise
