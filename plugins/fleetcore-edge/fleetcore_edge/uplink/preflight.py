"""What is looked at before a gateway enrols: a mistake that shows later has spent the token."""

from pathlib import Path

from cryptography import x509

from fleetcore.errors import ConfigError, Conflict, FleetError
from fleetcore.runtime.config import load
from fleetcore.wire.strict_json import loads
from fleetcore.wire.trust import first_trust
from fleetcore_edge.uplink.config import protocol_of


def check_folder(folder: Path, gateway: str) -> None:
    """A folder that is not there yet, empty, or this gateway's. Raises Conflict for another one's."""
    file = folder / "fleet.toml"
    if not file.exists():
        if any((folder / part).exists() for part in ("pki", "fleet.db")):
            raise Conflict(f"{folder} is a data folder without its fleet.toml", remedy="Name another folder")
        return
    uplinks = [each.table.get("gateway") for each in load(file).services if each.kind == "uplink"]
    if not uplinks:
        raise Conflict(f"{folder} is the folder of a fleet that is not a gateway", remedy="Name another folder")
    if gateway not in uplinks:
        raise Conflict(f"{folder} is the folder of the gateway {uplinks[0]!r}", remedy="Name another folder")


def check_endpoints(url: str, http: str | None) -> None:
    """Raises ConfigError where a gateway cannot enrol at these endpoints."""
    protocol = protocol_of(url)
    if http is None and protocol == "mqtt":
        raise ConfigError(
            "A gateway cannot enrol over MQTT", remedy="Give the core's HTTP endpoint too: --http https://HOST:8443"
        )
    if http is not None and protocol_of(http) != "http":
        raise ConfigError(f"{http!r} is not an HTTP endpoint", remedy="Write https://HOST:8443")


def read_token(file: Path) -> str:
    """The enrolment token in a file. Raises ConfigError where there is none."""
    token = file.read_bytes().strip()
    if not token or not token.isascii() or len(token.split()) > 1:
        raise ConfigError(
            f"{file} holds no enrolment token", remedy="Make one at the core: fleetcore enrollment token create"
        )
    return token.decode("ascii")


def read_ca(file: Path) -> bytes:
    """The certificates of a CA in a file. Raises ConfigError where there are none."""
    content = file.read_bytes()
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigError(
            f"{file} holds no certificate of a CA", remedy="Copy pki/ca.pem of the core's data folder"
        ) from error
    return content


def read_trust(file: Path) -> bytes:
    """A signed firmware root in a file. Raises ConfigError for something else."""
    content = file.read_bytes()
    try:
        first_trust(loads(content))
    except (FleetError, ValueError) as error:
        raise ConfigError(
            f"{file} is not a signed firmware root: {error}", remedy="Give the one that `firmware trust sign` wrote"
        ) from error
    return content
