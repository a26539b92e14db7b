"""How devices come in: enrolment tokens, batches with a claim certificate, manufacturers' CAs."""

from litestar import Response, get, post
from litestar.params import FromPath, JSONBody

from fleetcore.model.operator import Permission
from fleetcore_api.models import shown
from fleetcore_api.models_provisioning import (
    ClaimCredentialOut,
    ClaimIn,
    ClaimOut,
    EnrollmentTokenOut,
    ManufacturerIn,
    ManufacturerOut,
    ProofIn,
)
from fleetcore_api.models_state import ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, answered, decode
from fleetcore_api.parameters import Caller, named

_ONCE = {"Cache-Control": "no-store"}


@get("/enrollment-tokens", permission=Permission.SECURITY_READ, everywhere=True)
async def list_enrollment_tokens(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[EnrollmentTokenOut]:
    """Enrolment tokens by id, without what they are."""
    found = await access.fleet.security.enrollment_token_records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda token: shown(EnrollmentTokenOut, token))


@post("/enrollment-tokens/{token:str}/revoke", permission=Permission.SECURITY_WRITE, everywhere=True, status_code=200)
async def revoke_enrollment_token(access: Caller, token: FromPath[str], data: JSONBody[ReasonIn]) -> EnrollmentTokenOut:
    """Ends an enrolment token; devices that enrolled with it stay."""
    ended = await access.fleet.security.revoke_enrollment_token(named(token), actor=access.actor, reason=data.reason)
    return shown(EnrollmentTokenOut, ended)


@get("/claims", permission=Permission.SECURITY_READ, everywhere=True)
async def list_claims(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[ClaimOut]:
    """Batches by name."""
    found = await access.fleet.security.claims.batches.page(after=decode(cursor), limit=limit)
    return answered(found, lambda batch: shown(ClaimOut, batch))


@post("/claims", permission=Permission.SECURITY_WRITE, everywhere=True)
async def create_claim(access: Caller, data: JSONBody[ClaimIn]) -> Response[ClaimCredentialOut]:
    """A claim certificate for a batch; its key is shown once."""
    made = await access.fleet.security.create_claim(
        data.batch,
        quota=data.quota,
        days=data.days,
        device_type=data.device_type,
        tags=data.tags,
        models=data.models,
        serials=data.serials,
        per_minute=data.per_minute,
        actor=access.actor,
        reason=data.reason,
    )
    return Response(shown(ClaimCredentialOut, made), status_code=201, headers=_ONCE)


@post("/claims/{batch:str}/disable", permission=Permission.SECURITY_WRITE, everywhere=True, status_code=200)
async def disable_claim(access: Caller, batch: FromPath[str], data: JSONBody[ReasonIn]) -> ClaimOut:
    """Ends enrolment by a batch's certificate at once; enrolled devices stay."""
    ended = await access.fleet.security.disable_claim(named(batch), actor=access.actor, reason=data.reason)
    return shown(ClaimOut, ended)


@get("/manufacturers", permission=Permission.SECURITY_READ, everywhere=True)
async def list_manufacturers(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[ManufacturerOut]:
    """Manufacturers' CAs by name."""
    found = await access.fleet.security.manufacturers.records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda ca: shown(ManufacturerOut, ca))


@post("/manufacturers", permission=Permission.SECURITY_WRITE, everywhere=True)
async def propose_manufacturer(access: Caller, data: JSONBody[ManufacturerIn]) -> Response[ManufacturerOut]:
    """Takes a CA in; it counts once it has signed a certificate for the ``nonce``."""
    made = await access.fleet.security.propose_manufacturer(
        data.name,
        data.pem,
        admits=data.admits,
        device_type=data.device_type,
        model=data.model,
        tags=data.tags,
        actor=access.actor,
        reason=data.reason,
    )
    return Response(shown(ManufacturerOut, made), status_code=201)


@post("/manufacturers/{name:str}/prove", permission=Permission.SECURITY_WRITE, everywhere=True, status_code=200)
async def prove_manufacturer(access: Caller, name: FromPath[str], data: JSONBody[ProofIn]) -> ManufacturerOut:
    """Believes the CA from now on; again does nothing more."""
    proven = await access.fleet.security.prove_manufacturer(
        named(name), data.proof, actor=access.actor, reason=data.reason
    )
    return shown(ManufacturerOut, proven)


@post("/manufacturers/{name:str}/disable", permission=Permission.SECURITY_WRITE, everywhere=True, status_code=200)
async def disable_manufacturer(access: Caller, name: FromPath[str], data: JSONBody[ReasonIn]) -> ManufacturerOut:
    """Ends enrolment by the CA's devices at once; enrolled ones stay."""
    ended = await access.fleet.security.disable_manufacturer(named(name), actor=access.actor, reason=data.reason)
    return shown(ManufacturerOut, ended)


HANDLERS = [
    list_enrollment_tokens,
    revoke_enrollment_token,
    list_claims,
    create_claim,
    disable_claim,
    list_manufacturers,
    propose_manufacturer,
    prove_manufacturer,
    disable_manufacturer,
]
