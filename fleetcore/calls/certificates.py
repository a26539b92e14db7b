"""Certificates and tokens of devices: their credentials, and how to revoke them."""

from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.responses.certificates import CertificateResponse
from fleetcore.calls.responses.enrollment import SecretResponse
from fleetcore.calls.responses.groups import ChangedResponse
from fleetcore.calls.table import BY_CALL, call, on
from fleetcore.calls.types import Cursor, DeviceId, Limit, Names, Page, Reason, to_response
from fleetcore.fleet.security import CertificateRecord
from fleetcore.model.operator import Permission

CertificateId = Annotated[
    str,
    Meta(min_length=1, max_length=256, description="`ISSUER:SERIAL`, or only the serial, in hex."),
    Names("list_certificates", short=True),
]
CertificateHolder = Annotated[DeviceId, Meta(description="Only certificates of this device.")]
_COLUMNS = ("id", "state", "not_after")


def _certificate(certificate: CertificateRecord) -> CertificateResponse:
    return to_response(CertificateResponse, certificate)


@call(
    "GET /certificates", Permission.SECURITY_READ, scope=BY_CALL, cli="certificate list",
    columns=("id", "device", "state", "not_after"),
)  # fmt: skip
async def list_certificates(
    caller: Caller, device: CertificateHolder | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[CertificateResponse]:
    """Lists the certificates that the fleet issued, by id.

    Raises:
        NotFound: there is no such device.
    """
    if device is not None:
        await caller.device(device)
    return await caller.page(
        caller.fleet.security.certificate_records,
        lambda certificate: certificate.device,
        _certificate,
        cursor,
        limit,
        ref=None if device is None else ("device", device),
    )


@call(
    "GET /devices/{device_id}/certificates", Permission.SECURITY_READ, scope=on("device_id"),
    cli="device certificates DEVICE_ID", columns=_COLUMNS,
)  # fmt: skip
async def list_device_certificates(caller: Caller, device_id: DeviceId) -> Page[CertificateResponse]:
    """Lists the certificates of a device.

    Raises:
        NotFound: there is no such device.
    """
    return Page([_certificate(item) for item in await caller.fleet.security.inventory(device_id)])


async def _found(caller: Caller, certificate: str) -> CertificateRecord:
    """The certificate, where the caller has the permission on its device."""
    found = await caller.fleet.security.certificate(certificate)
    if found is None:
        raise missing("certificate", certificate)
    await caller.item(found.device, "certificate", certificate)
    return found


@call("GET /certificates/{certificate}", Permission.SECURITY_READ, scope=BY_CALL, cli="certificate show CERTIFICATE")
async def get_certificate(caller: Caller, certificate: CertificateId) -> CertificateResponse:
    """Shows a certificate that the fleet issued.

    Raises:
        NotFound: there is no such certificate.
    """
    return _certificate(await _found(caller, certificate))


@call(
    "POST /certificates/{certificate}/revoke", Permission.SECURITY_WRITE, scope=BY_CALL,
    cli="certificate revoke CERTIFICATE",
    confirm="Revokes the certificate {certificate} for good and ends its sessions.",
)  # fmt: skip
async def revoke_certificate(caller: Caller, certificate: CertificateId, *, reason: Reason = "") -> ChangedResponse:
    """Revokes a certificate and ends its sessions; the device's other certificates stay. Repeating it changes nothing.

    Raises:
        NotFound: there is no such certificate.
    """
    found = await _found(caller, certificate)
    count = await caller.fleet.security.revoke(serial=found.id, actor=caller.actor, reason=reason)
    return ChangedResponse(changed=count)


@call(
    "POST /devices/{device_id}/revoke", Permission.SECURITY_WRITE, scope=on("device_id"),
    cli="device revoke DEVICE_ID",
    confirm="Revokes every certificate and token of {device_id} for good and ends its sessions.",
)  # fmt: skip
async def revoke_device(caller: Caller, device_id: DeviceId, *, reason: Reason = "") -> ChangedResponse:
    """Revokes every certificate and token of a device and ends its sessions; returns how many it revoked.

    Raises:
        NotFound: there is no such device.
    """
    count = await caller.fleet.security.revoke(device=device_id, actor=caller.actor, reason=reason)
    return ChangedResponse(changed=count)


@call(
    "POST /devices/{device_id}/tokens", Permission.SECURITY_WRITE, scope=on("device_id"), cli="device token DEVICE_ID",
    status=201, secret_fields=("token",),
)  # fmt: skip
async def issue_device_token(caller: Caller, device_id: DeviceId, *, reason: Reason = "") -> SecretResponse:
    """Issues a bearer token to a device that cannot use client certificates. It is shown once.

    Raises:
        NotFound: there is no such device.
    """
    token = await caller.fleet.security.device_tokens.issue(device_id, actor=caller.actor, reason=reason)
    return SecretResponse(token=token)
