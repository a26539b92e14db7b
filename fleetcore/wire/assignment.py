"""Assignments: the server's signed and time-limited instruction that a device installs an image.

The maker of firmware signs which images are genuine; the server signs which device gets which image. With only the
server's key, an attacker can assign genuine images only; with only a firmware key, no update can be started.
"""

import re

from attrs import frozen

from fleetcore.errors import NotAuthenticated, Refused
from fleetcore.model.names import check_device_id
from fleetcore.wire import dsse
from fleetcore.wire.members import Members
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time

ASSIGNMENT_TYPE = "application/vnd.fleetcore.assignment+json"
FORMAT = "fleetcore.assignment/1"
_ASSIGNMENT_BYTES = 4096
_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(r"[\x20-\x7e]{1,256}", re.ASCII)


@frozen(kw_only=True)
class Assignment:
    """One image for one device.

    Attributes:
        manifest_sha256: of the signed manifest, without its envelope.
        issued: the server's time when it made the assignment, ms since the epoch: a device without a clock judges
            expiry by the latest one that it has seen. None from a server that does not say it.
        not_after: ms since the epoch; after it the device does not start.
        nonce: different for each attempt, 32 hex digits.
    """

    device: str
    campaign: str
    execution: str
    manifest_sha256: str
    seq: int
    not_after: int
    nonce: str
    issued: int | None = None


def write_assignment(assignment: Assignment) -> bytes:
    """The document that the server signs."""
    document: dict[str, object] = {
        "format": FORMAT,
        "device": assignment.device,
        "campaign": assignment.campaign,
        "execution": assignment.execution,
        "manifest_sha256": assignment.manifest_sha256,
        "seq": assignment.seq,
        "not_after": format_time(assignment.not_after),
        "nonce": assignment.nonce,
    }
    if assignment.issued is not None:
        document["issued"] = format_time(assignment.issued)
    return dumps(document)


def read_assignment(payload: bytes) -> Assignment:
    """Decodes only the document. Raises Refused for any invalid bytes."""
    members = Members.of(payload, "The assignment", limit_bytes=_ASSIGNMENT_BYTES, form=FORMAT)
    found = Assignment(
        device=check_device_id(members.text("device", _NAME, "a device id")),
        campaign=members.label("campaign"),
        execution=members.text("execution", _NAME, "1-256 characters"),
        manifest_sha256=members.sha256("manifest_sha256"),
        seq=members.integer("seq", 1),
        not_after=members.time("not_after"),
        nonce=members.text("nonce", _NONCE, "32 hex digits"),
        issued=members.time("issued") if members.has("issued") else None,
    )
    members.end()
    return found


def open_assignment(envelope: object, server_key: bytes, *, device: str, now: int) -> Assignment:
    """An assignment that the server signed for this device and that is valid now.

    Raises Refused: ``signature_invalid``, ``not_your_device``, ``too_late``, and as :func:`read_assignment`.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        verified = dsse.verify(envelope, ASSIGNMENT_TYPE, [Ed25519PublicKey.from_public_bytes(server_key)])
    except NotAuthenticated as error:
        raise Refused("The assignment is not signed by the server", code="signature_invalid") from error
    found = read_assignment(verified.payload)
    if found.device != device:
        raise Refused(f"The assignment is for {found.device!r}", code="not_your_device")
    if now >= found.not_after:
        raise Refused(f"The assignment expired at {format_time(found.not_after)}", code="too_late")
    return found
