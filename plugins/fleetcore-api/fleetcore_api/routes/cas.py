"""The CAs and what ends when: rotation, forecast, revocation lists, renewal of many certificates in waves."""

from typing import Annotated

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from fleetcore.errors import NotFound, Refused
from fleetcore.fleet.security.forecast import MOST_NAMED, MOST_PERIODS, Period
from fleetcore.fleet.security.rotation import StepResult
from fleetcore.model.operator import Permission
from fleetcore.wire.times import format_time
from fleetcore_api.models import shown
from fleetcore_api.models_ca import (
    CaOut,
    CertificateIn,
    CheckedOut,
    CrlOut,
    DependentOut,
    DistrustIn,
    EndingOut,
    ForecastOut,
    IncidentOut,
    PeriodOut,
    ReissueIn,
    RenewalIn,
    RenewalPlanOut,
    RotationOut,
    StepIn,
    StepOut,
)
from fleetcore_api.models_state import OperationOut, ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, of_few
from fleetcore_api.parameters import Caller, named
from fleetcore_api.routes.operations import show_operation

_STEPS = ("begin", "issue", "back", "retire")

PeriodName = Annotated[str, QueryParameter(name="per", pattern=f"^({'|'.join(Period)})$", max_length=8)]
Periods = Annotated[int, QueryParameter(name="periods", ge=1, le=MOST_PERIODS)]
By = Annotated[str | None, QueryParameter(name="by", pattern="^(type|group)$", max_length=8)]
Next = Annotated[int, QueryParameter(name="next", ge=0, le=MOST_NAMED)]


@get("/cas", permission=Permission.SECURITY_READ, everywhere=True)
async def list_cas(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[CaOut]:
    """Roots, issuing CAs, former ones whose lists are still made, and the cross certificate."""
    found = await access.fleet.security.cas()
    order = {(one.kind, one.id): f"{place:06d}" for place, one in enumerate(found)}
    return of_few(found, cursor, limit, lambda one: order[one.kind, one.id], lambda one: shown(CaOut, one))


@post("/cas", permission=Permission.CA_WRITE, everywhere=True)
async def renew_issuing_ca(access: Caller, data: JSONBody[ReasonIn]) -> Response[StepOut]:
    """Makes a new issuing CA below the same root, which signs from now on; the one before stays trusted."""
    done = await access.fleet.security.rotation.renew_issuing(actor=access.actor, reason=data.reason)
    return Response(_done(done), status_code=201)


@get("/cas/{ca:str}/incident", permission=Permission.SECURITY_READ, everywhere=True)
async def ca_incident(access: Caller, ca: FromPath[str]) -> IncidentOut:
    """The devices that hang on an issuing CA whose key is lost."""
    found = await access.fleet.security.incident(named(ca))
    dependents = [shown(DependentOut, one) for one in found]
    return IncidentOut(
        ca=ca, devices=len(found), sole_certificate=sum(one.sole_certificate for one in found), dependents=dependents
    )


@post("/cas/{ca:str}/distrust", permission=Permission.CA_WRITE, everywhere=True, status_code=200)
async def distrust_ca(access: Caller, ca: FromPath[str], data: JSONBody[DistrustIn]) -> StepOut:
    """Ends trust in an issuing CA: every certificate of it is refused from now on."""
    done = await access.fleet.security.rotation.distrust(
        named(ca), force=data.force, actor=access.actor, reason=data.reason
    )
    return _done(done)


@get("/ca-rotation", permission=Permission.SECURITY_READ, everywhere=True)
async def ca_rotation(access: Caller) -> RotationOut:
    """How far a rotation is, and whom retiring the old root would lock out."""
    return shown(RotationOut, await access.fleet.security.rotation.status())


@post("/ca-rotation/{step:str}", permission=Permission.CA_WRITE, everywhere=True, status_code=200)
async def rotate_ca(access: Caller, step: FromPath[str], data: JSONBody[StepIn]) -> StepOut:
    """``begin``, ``issue``, ``back`` or ``retire``; a root's key that is offline is lent on the server's machine."""
    if step not in _STEPS:
        raise NotFound(f"A rotation has no step {step!r}", remedy=f"Use one of: {', '.join(_STEPS)}")
    done = await access.fleet.security.rotation.step(
        step, threshold=data.threshold, force=data.force, actor=access.actor, reason=data.reason
    )
    return _done(done)


def _done(done: StepResult) -> StepOut:
    return shown(StepOut, done)


@get("/certificate-forecast", permission=Permission.SECURITY_READ, everywhere=True)
async def forecast_certificates(
    access: Caller,
    per: PeriodName = "week",
    periods: Periods = 12,
    by: By = None,
    where: Annotated[str | None, QueryParameter(max_length=4096)] = None,
    most: Next = 10,
) -> ForecastOut:
    """How many certificates end in each of the next weeks or months; the next to end; the late renewers."""
    security = access.fleet.security
    found = await access.fleet.outlook.forecast(per=per, periods=periods, by=by, where=where, next=most)
    return shown(
        ForecastOut,
        found,
        buckets=[shown(PeriodOut, one) for one in found.buckets],
        next=[shown(EndingOut, one) for one in found.next],
        late=[shown(EndingOut, one) for one in found.late],
        cas=[shown(CaOut, one) for one in await security.cas()],
        own={name: format_time(time) for name, time in security.own_ends().items()},
    )


@post("/certificate-checks", permission=Permission.SECURITY_READ, everywhere=True, status_code=200)
async def check_certificate(access: Caller, data: JSONBody[CertificateIn]) -> CheckedOut:
    """What a certificate is worth here and now, and why it is refused."""
    return shown(CheckedOut, await access.fleet.security.validate(data.pem.encode()))


@get("/revocation-lists", permission=Permission.SECURITY_READ, everywhere=True)
async def get_crl(access: Caller) -> CrlOut:
    """The revocation lists of every issuing CA that has living certificates."""
    return CrlOut(crl=(await access.fleet.security.export_crl()).decode())


@post(
    "/renewals",
    permission=Permission.SECURITY_WRITE,
    everywhere=True,
    status_code=202,
    responses={200: ResponseSpec(RenewalPlanOut, description="Whom it would ask (dry_run).", generate_examples=False)},
)
async def renew_certificates(
    access: Caller, data: JSONBody[RenewalIn], dry_run: FromQuery[bool] = False
) -> Response[RenewalPlanOut] | Response[OperationOut]:
    """Asks many devices for a new certificate, in waves: first ``dry_run=true``, then the same body with the plan."""
    renewals = access.fleet.renewals
    if dry_run:
        plan = await renewals.plan(
            where=data.where, devices=data.devices, outdated=data.outdated, waves=data.waves, cap=data.cap
        )
        return Response(shown(RenewalPlanOut, plan), status_code=200)
    if data.plan is None:
        raise Refused(
            "A renewal in waves needs its plan",
            code="precondition_required",
            remedy="Ask with ?dry_run=true first, look at it, and send the same body with its plan",
        )
    operation = await renewals.start(
        where=data.where,
        devices=data.devices,
        outdated=data.outdated,
        waves=data.waves,
        cap=data.cap,
        rate_per_s=data.rate_per_s,
        timeout_s=data.timeout_s,
        max_failed=data.max_failed,
        plan=data.plan,
        actor=access.actor,
        reason=data.reason,
    )
    body = await show_operation(access, operation)
    return Response(body, status_code=202, headers={"Location": f"/api/v1/operations/{operation.id}"})


@post("/devices/{device_id:str}/renew", permission=Permission.SECURITY_WRITE, status_code=202)
async def reissue_certificate(
    access: Caller, device_id: FromPath[str], data: JSONBody[ReissueIn]
) -> Response[OperationOut]:
    """Asks a device for a new certificate; the operation follows whether it comes with it."""
    await access.device(device_id, Permission.SECURITY_WRITE)
    operation = await access.fleet.renewals.reissue(
        device_id, timeout_s=data.timeout_s, actor=access.actor, reason=data.reason
    )
    body = await show_operation(access, operation)
    return Response(body, status_code=202, headers={"Location": f"/api/v1/operations/{operation.id}"})


HANDLERS = [
    list_cas,
    renew_issuing_ca,
    ca_incident,
    distrust_ca,
    ca_rotation,
    rotate_ca,
    forecast_certificates,
    check_certificate,
    get_crl,
    renew_certificates,
    reissue_certificate,
]
