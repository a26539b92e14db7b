"""Certificates and enrolments of devices."""

from typing import Annotated

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from fleetcore.fleet.security.enrollment import EnrollmentRecord, EnrollmentState
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.model.operator import Permission
from fleetcore_api.access import Access, missing
from fleetcore_api.models import shown
from fleetcore_api.models_state import Changed, ReasonIn
from fleetcore_api.models_trust import CertificateOut, DecisionIn, EnrollmentOut, EnrollmentTokenIn, SecretOut
from fleetcore_api.pages import Cursor, Limit, Page
from fleetcore_api.parameters import Caller
from fleetcore_api.routes.telemetry import Device

EnrollmentStateName = Annotated[
    str | None, QueryParameter(name="state", pattern=f"^({'|'.join(EnrollmentState)})$", max_length=16)
]


@get("/certificates", permission=Permission.SECURITY_READ)
async def list_certificates(
    access: Caller, device: Device = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[CertificateOut]:
    """Certificates that were issued, by id."""
    if device is not None:
        await access.device(device, Permission.SECURITY_READ)
    return await access.page(
        access.fleet.security.certificate_records,
        lambda certificate: certificate.device,
        lambda certificate: shown(CertificateOut, certificate),
        cursor,
        limit,
        ref=None if device is None else ("device", device),
        permission=Permission.SECURITY_READ,
    )


@get("/devices/{device_id:str}/certificates", permission=Permission.SECURITY_READ)
async def certificates_of_device(access: Caller, device_id: FromPath[str]) -> Page[CertificateOut]:
    """One device's."""
    await access.device(device_id, Permission.SECURITY_READ)
    found = await access.fleet.security.inventory(device_id)
    return Page(items=[shown(CertificateOut, one) for one in found], next=None)


async def _certificate(access: Access, certificate: str, permission: Permission) -> CertificateRecord:
    found = await access.fleet.security.certificate_records.get(certificate)
    if found is None:
        raise missing("certificate", certificate)
    await access.item(found.device, "certificate", certificate, permission)
    return found


@post("/devices/{device_id:str}/revoke", permission=Permission.SECURITY_WRITE, status_code=200)
async def revoke_device(access: Caller, device_id: FromPath[str], data: JSONBody[ReasonIn]) -> Changed:
    """Revokes every certificate and token of a device and ends its sessions; again does nothing more."""
    await access.device(device_id, Permission.SECURITY_WRITE)
    count = await access.fleet.security.revoke(device=device_id, actor=access.actor, reason=data.reason)
    return Changed(changed=count)


@post("/devices/{device_id:str}/tokens", permission=Permission.SECURITY_WRITE)
async def issue_device_token(access: Caller, device_id: FromPath[str], data: JSONBody[ReasonIn]) -> Response[SecretOut]:
    """A bearer token for a device that cannot do client certificates; shown once."""
    await access.device(device_id, Permission.SECURITY_WRITE)
    token = await access.fleet.security.issue_device_token(device_id, actor=access.actor, reason=data.reason)
    return Response(SecretOut(token=token), status_code=201, headers={"Cache-Control": "no-store"})


@get("/certificates/{certificate:str}", permission=Permission.SECURITY_READ)
async def get_certificate(access: Caller, certificate: FromPath[str]) -> CertificateOut:
    """One certificate."""
    return shown(CertificateOut, await _certificate(access, certificate, Permission.SECURITY_READ))


@post("/certificates/{certificate:str}/revoke", permission=Permission.SECURITY_WRITE, status_code=200)
async def revoke_certificate(access: Caller, certificate: FromPath[str], data: JSONBody[ReasonIn]) -> Changed:
    """Revokes a certificate and ends its sessions; again does nothing more."""
    found = await _certificate(access, certificate, Permission.SECURITY_WRITE)
    count = await access.fleet.security.revoke(serial=found.id, actor=access.actor, reason=data.reason)
    return Changed(changed=count)


@get("/enrollments", permission=Permission.SECURITY_READ)
async def list_enrollments(
    access: Caller,
    wanted: EnrollmentStateName = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[EnrollmentOut]:
    """Keys that asked to be devices."""
    return await access.page(
        access.fleet.security.enrollment_records,
        lambda enrollment: enrollment.device,
        lambda enrollment: shown(EnrollmentOut, enrollment),
        cursor,
        limit,
        ref=None if wanted is None else ("state", wanted),
        permission=Permission.SECURITY_READ,
    )


@post("/enrollments", permission=Permission.SECURITY_WRITE)
async def create_enrollment_token(access: Caller, data: JSONBody[EnrollmentTokenIn]) -> Response[SecretOut]:
    """A token by which devices enrol; shown once. For new devices it needs the right for the whole fleet."""
    if data.device is not None:
        await access.device(data.device, Permission.SECURITY_WRITE)
    else:
        access.wide(Permission.SECURITY_WRITE, "enrollments")
    token = await access.fleet.security.create_enrollment_token(
        device=data.device,
        uses=data.uses,
        ttl_s=data.ttl_s,
        device_type=data.device_type,
        groups=data.groups,
        networks=data.networks,
        actor=access.actor,
        reason=data.reason,
    )
    return Response(SecretOut(token=token), status_code=201, headers={"Cache-Control": "no-store"})


async def _enrollment(access: Access, name: str, permission: Permission) -> EnrollmentRecord:
    found = await access.fleet.security.enrollment(name)
    if found is None:
        raise missing("enrollment", name)
    await access.item(found.device, "enrollment", name, permission)
    return found


@get("/enrollments/{enrollment:str}", permission=Permission.SECURITY_READ)
async def get_enrollment(access: Caller, enrollment: FromPath[str]) -> EnrollmentOut:
    """One enrolment."""
    return shown(EnrollmentOut, await _enrollment(access, enrollment, Permission.SECURITY_READ))


@post("/enrollments/{enrollment:str}/approve", permission=Permission.SECURITY_WRITE, status_code=200)
async def approve(access: Caller, enrollment: FromPath[str], data: JSONBody[DecisionIn]) -> EnrollmentOut:
    """Accepts a key: the device gets its certificate when it asks again."""
    found = await _enrollment(access, enrollment, Permission.SECURITY_WRITE)
    decided = await access.fleet.security.approve(
        found.device, found.fingerprint, replace=data.replace, actor=access.actor, reason=data.reason
    )
    return shown(EnrollmentOut, decided)


@post("/enrollments/{enrollment:str}/reject", permission=Permission.SECURITY_WRITE, status_code=200)
async def reject(access: Caller, enrollment: FromPath[str], data: JSONBody[ReasonIn]) -> EnrollmentOut:
    """Rejects a key."""
    found = await _enrollment(access, enrollment, Permission.SECURITY_WRITE)
    decided = await access.fleet.security.reject(
        found.device, found.fingerprint, actor=access.actor, reason=data.reason
    )
    return shown(EnrollmentOut, decided)


HANDLERS = [
    list_certificates,
    certificates_of_device,
    revoke_device,
    issue_device_token,
    get_certificate,
    revoke_certificate,
    list_enrollments,
    create_enrollment_token,
    get_enrollment,
    approve,
    reject,
]
