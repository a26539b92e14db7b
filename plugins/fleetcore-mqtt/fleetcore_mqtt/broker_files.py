"""Configuration of a Mosquitto broker in front of fleetcore: ``mosquitto.conf`` and its access list.

The access list is generated from the table in :mod:`.topics`. Written for Mosquitto 2.0; every setting below was tried
against 2.0.11.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from fleetcore.errors import Refused
from fleetcore_mqtt import topics
from fleetcore_mqtt.framing import PACKET_BYTES

_USER = """
# Started by root, Mosquitto changes to this user, who owns these files: its own default could not read them.
user {user}
"""

CONFIG, ACCESS = "mosquitto.conf", "mosquitto.acl"


@frozen(kw_only=True)
class BrokerFiles:
    """The input of the broker's configuration.

    Attributes:
        out: the folder of the two files and of the broker's state.
        ca, certificate, key, crl: paths; ``crl`` is the list of the CA that issues the devices' certificates.
        service: the common name of fleetcore's certificate at the broker.
        user: the owner of these files; a broker started by root runs as this user.
    """

    out: Path
    port: int
    ca: Path
    certificate: Path
    key: Path
    crl: Path | None
    service: str
    user: str | None = None

    def render(self) -> Mapping[str, str]:
        """File name → text. Raises Refused for a path or name that would add a line."""
        for value in (self.out, self.ca, self.certificate, self.key, self.crl, self.service, self.user):
            if any(ord(character) < 0x20 for character in str(value)):
                raise Refused(f"{str(value)!r} cannot be written into {CONFIG}", code="name_invalid")
        return {CONFIG: self._config(), ACCESS: access_list(self.service)}

    def _config(self) -> str:
        crl = "" if self.crl is None else f"crlfile {self.crl}\n"
        user = "" if self.user is None else _USER.format(user=self.user)
        return f"""\
# Written by `fleetcore mqtt broker-config`. Run: mosquitto -c {shlex.quote(str(self.out / CONFIG))}
# After a revocation: write the list anew (crlfile) and send SIGHUP.

# What is not acknowledged to fleetcore yet survives a restart. After a crash of the broker, or of its machine, what
# came since the last save is lost although the device was told otherwise: no setting of Mosquitto changes that.
persistence true
persistence_location {self.out}/
autosave_interval 60
# A device that stays away is told all by the store when it comes back; only fleetcore's own queue matters.
persistent_client_expiration 1d

# A device is its certificate: the common name is the user name, and the user name is the client id, so that no
# certificate can take over another device's session.
listener {self.port}
cafile {self.ca}
certfile {self.certificate}
keyfile {self.key}
{crl}require_certificate true
use_identity_as_username true
use_username_as_clientid true
tls_version tlsv1.2
allow_anonymous false
acl_file {self.out / ACCESS}

max_packet_size {PACKET_BYTES}
max_keepalive 1200
# fleetcore ignores RETAIN. Without this the broker would close the connection of a device that sets it.
retain_available true
# Towards fleetcore this is how many wait for their commit; towards a device its own Receive Maximum is smaller.
max_inflight_messages 1000
# While fleetcore is away; beyond it the broker drops messages, so the disk must hold it.
max_queued_messages 1000000
max_queued_bytes 1073741824
set_tcp_nodelay true
log_type error
log_type warning
log_type notice
{user}"""


def access_list(service: str) -> str:
    """Mosquitto's ``acl_file``: the write and read list of each device, reversed for fleetcore (wire.md §1)."""
    lines = ["# Written by `fleetcore mqtt broker-config`. %u is the common name of the device's certificate.", ""]
    lines += [f"pattern write {name}" for name in topics.filters([name for name, _ in topics.WRITE], "%u")]
    lines += [f"pattern read {name}" for name in topics.filters(topics.READ, "%u")]
    lines += ["", f"user {service}"]
    lines += [f"topic read {name}" for name in topics.filters([name for name, _ in topics.WRITE])]
    lines += [f"topic write {name}" for name in topics.filters(topics.READ)]
    return "\n".join(lines) + "\n"
