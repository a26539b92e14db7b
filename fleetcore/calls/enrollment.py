"""Enrolment: tokens, claim certificates and manufacturers' CAs admit devices; other keys wait for approval."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered, missing
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.enrollment import (
    ClaimCredentialResponse,
    ClaimResponse,
    EnrollmentResponse,
    EnrollmentTokenResponse,
    ManufacturerResponse,
    SecretResponse,
)
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import BatchName, Cursor, DeviceId, Label, Limit, Names, Page, Reason, Word, to_response
from fleetcore.fleet.security.claims import ClaimBatch
from fleetcore.fleet.security.enrollment import EnrollmentRecord
from fleetcore.fleet.security.manufacturers import ManufacturerCa
from fleetcore.fleet.security.tokens import EnrollmentToken
from fleetcore.model.credential import Admits, EnrollmentState
from fleetcore.model.operator import Permission

EnrollmentTokenId = Annotated[
    str, Meta(min_length=1, max_length=64, description="The token's id."), Names("list_enrollment_tokens", short=True)
]
TokenUses = Annotated[int, Meta(ge=1, le=1_000_000, description="How many new devices may enrol with it.")]
TokenSeconds = Annotated[float, Meta(gt=0, le=31_622_400, description="Its lifetime, in seconds.")]
TokenDevice = Annotated[
    DeviceId, Meta(description="The registered device that it is for; without one it enrols new devices.")
]
NewDeviceTags = Annotated[Sequence[Label], Meta(max_length=100, description="Tags of the new devices."), Word("tag")]
NewDeviceType = Annotated[Label, Meta(description="The type of the new devices."), Word("type")]
StaticGroups = Annotated[
    Sequence[Label], Meta(max_length=100, description="Static groups for the new devices."), Word("group")
]
Networks = Annotated[
    Sequence[Annotated[str, Meta(max_length=64)]],
    Meta(max_length=100, description="Networks that it is valid from, such as 192.0.2.0/24; empty: from anywhere."),
    Word("network"),
]
ClaimQuota = Annotated[int, Meta(ge=1, le=1_000_000, description="How many devices may enrol with it.")]
ClaimDays = Annotated[float, Meta(ge=1, le=366, description="Its lifetime, in days.")]
ClaimModels = Annotated[
    Sequence[Label], Meta(max_length=100, description="Models that its devices may report; empty: any."), Word("model")
]
ClaimSerials = Annotated[
    Sequence[Annotated[str, Meta(min_length=1, max_length=128)]],
    Meta(max_length=100_000, description="Serials that its devices may report; empty: any."),
    Word("serial"),
]
ClaimRate = Annotated[int, Meta(ge=1, le=60_000, description="How many devices may start to enrol in a minute.")]
ClaimName = Annotated[BatchName, Names("list_claims")]
NewManufacturer = Annotated[Label, Meta(description="A name for the manufacturer.")]
ManufacturerName = Annotated[
    str, Meta(min_length=1, max_length=128, description="The manufacturer's name."), Names("list_manufacturers")
]
ManufacturerPem = Annotated[str, Meta(max_length=16_384, description="The certificate of the CA, PEM.")]
ManufacturerProof = Annotated[
    str, Meta(max_length=16_384, description="A certificate, PEM: signed by the CA, its common name is the nonce.")
]
NewDeviceModel = Annotated[Label, Meta(description="The model of the new devices.")]
Admission = Annotated[Admits, Meta(description="Whether its devices wait for an operator's approval.")]
#: Must not be abbreviated: a fingerprint is compared as a whole before its key is approved.
EnrollmentId = Annotated[
    str,
    Meta(min_length=1, max_length=256, description="The key: `DEVICE:FINGERPRINT`."),
    Names("list_enrollments"),
]
Replace = Annotated[bool, Meta(description="Ends the device's other certificates once the new one has connected.")]
WantedState = Annotated[EnrollmentState, Meta(description="Only keys in this state.")]


def _token(token: EnrollmentToken) -> EnrollmentTokenResponse:
    return to_response(EnrollmentTokenResponse, token)


def _claim(batch: ClaimBatch) -> ClaimResponse:
    return to_response(ClaimResponse, batch)


def _manufacturer(ca: ManufacturerCa) -> ManufacturerResponse:
    return to_response(ManufacturerResponse, ca)


def _enrollment(enrollment: EnrollmentRecord) -> EnrollmentResponse:
    return to_response(EnrollmentResponse, enrollment)


@call(
    "GET /enrollment-tokens", Permission.SECURITY_READ, cli="enrollment token list",
    columns=("id", "device", "device_type", "uses", "left", "expires", "revoked"),
)  # fmt: skip
async def list_enrollment_tokens(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[EnrollmentTokenResponse]:
    """Lists the enrolment tokens by id, without their secrets."""
    tokens = caller.fleet.security.enrollment_token_records
    return answered(await tokens.page(after=decode(cursor), limit=limit), _token)


@call(
    "POST /enrollments", Permission.SECURITY_WRITE, scope=BY_CALL, cli="enrollment token create", status=201,
    secret_fields=("token",),
)  # fmt: skip
async def create_enrollment_token(
    caller: Caller,
    device: TokenDevice | None = None,
    *,
    uses: TokenUses = 1,
    ttl_s: TokenSeconds = 86_400.0,
    device_type: NewDeviceType = "device",
    groups: StaticGroups = (),
    networks: Networks = (),
    reason: Reason = "",
) -> SecretResponse:
    """Makes an enrolment token, for one registered device or for new devices. Its secret is returned once.

    A token for new devices needs the permission for the whole fleet.

    Raises:
        NotFound: there is no such device, or no such group.
        Refused: a group is dynamic, a network cannot be read, or groups are given for one device.
    """
    if device is not None:
        await caller.device(device)
    else:
        caller.everywhere("create_enrollment_token")
    token = await caller.fleet.security.enrollment_tokens.create(
        device=device, uses=uses, ttl_s=ttl_s, device_type=device_type, groups=groups, networks=networks,
        actor=caller.actor, reason=reason,
    )  # fmt: skip
    return SecretResponse(token=token)


@call(
    "POST /enrollment-tokens/{token_id}/revoke", Permission.SECURITY_WRITE, cli="enrollment token revoke TOKEN_ID",
    confirm="Ends the enrolment token {token_id} for good.",
)  # fmt: skip
async def revoke_enrollment_token(
    caller: Caller, token_id: EnrollmentTokenId, *, reason: Reason = ""
) -> EnrollmentTokenResponse:
    """Revokes an enrolment token; devices that enrolled with it stay.

    Raises:
        NotFound: there is no such token.
    """
    return _token(await caller.fleet.security.enrollment_tokens.revoke(token_id, actor=caller.actor, reason=reason))


@call(
    "GET /claims", Permission.SECURITY_READ, cli="enrollment claim list",
    columns=("id", "used", "quota", "device_type", "expires", "disabled"),
)  # fmt: skip
async def list_claims(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[ClaimResponse]:
    """Lists the batches that have a claim certificate, and how many of their devices have enrolled."""
    batches = caller.fleet.security.claims.batches
    return answered(await batches.page(after=decode(cursor), limit=limit), _claim)


@call(
    "POST /claims", Permission.SECURITY_WRITE, cli="enrollment claim create BATCH", status=201, secret_fields=("key",)
)
async def create_claim(
    caller: Caller,
    batch: BatchName,
    quota: ClaimQuota,
    *,
    days: ClaimDays = 90.0,
    device_type: NewDeviceType = "device",
    tags: NewDeviceTags = (),
    models: ClaimModels = (),
    serials: ClaimSerials = (),
    per_minute: ClaimRate = 60,
    reason: Reason = "",
) -> ClaimCredentialResponse:
    """Creates a claim certificate, with which the devices of a batch enrol. Its key is returned once.

    Raises:
        Conflict: a batch of that name exists.
    """
    made = await caller.fleet.security.claims.create(
        batch, quota=quota, days=days, device_type=device_type, tags=tags, models=models, serials=serials,
        per_minute=per_minute, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return to_response(ClaimCredentialResponse, made)


@call("POST /claims/{batch}/disable", Permission.SECURITY_WRITE, cli="enrollment claim disable BATCH")
async def disable_claim(caller: Caller, batch: ClaimName, *, reason: Reason = "") -> ClaimResponse:
    """Disables the claim certificate of a batch at once; enrolled devices stay.

    Raises:
        NotFound: there is no such batch.
    """
    return _claim(await caller.fleet.security.disable_claim(batch, actor=caller.actor, reason=reason))


@call(
    "GET /manufacturers", Permission.SECURITY_READ, cli="enrollment manufacturer list",
    columns=("id", "admits", "device_type", "not_after", "nonce", "disabled"),
)  # fmt: skip
async def list_manufacturers(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[ManufacturerResponse]:
    """Lists the manufacturers' CAs by name."""
    cas = caller.fleet.security.manufacturers.records
    return answered(await cas.page(after=decode(cursor), limit=limit), _manufacturer)


@call("POST /manufacturers", Permission.SECURITY_WRITE, cli="enrollment manufacturer propose NAME PEM", status=201)
async def propose_manufacturer(
    caller: Caller,
    name: NewManufacturer,
    pem: ManufacturerPem,
    *,
    admits: Admission = Admits.WAITING,
    device_type: NewDeviceType = "device",
    model: NewDeviceModel | None = None,
    tags: NewDeviceTags = (),
    reason: Reason = "",
) -> ManufacturerResponse:
    """Registers a manufacturer's CA. Its devices may enrol once the CA is proven.

    The proof is a certificate signed by the CA whose common name is the ``nonce`` of the answer.

    Raises:
        Refused: it is not a CA certificate, it is too weak or expired, or the CA is one of the fleet's own.
        Conflict: the name or the CA is registered.
    """
    made = await caller.fleet.security.manufacturers.propose(
        name, pem, admits=admits, device_type=device_type, model=model, tags=tags, actor=caller.actor, reason=reason
    )
    return _manufacturer(made)


@call(
    "POST /manufacturers/{name}/prove", Permission.SECURITY_WRITE, cli="enrollment manufacturer prove NAME PROOF"
)  # fmt: skip
async def prove_manufacturer(
    caller: Caller, name: ManufacturerName, proof: ManufacturerProof, *, reason: Reason = ""
) -> ManufacturerResponse:
    """Proves a manufacturer's CA: its devices may enrol from now on. Proving it again changes nothing.

    Raises:
        NotFound: there is no such CA.
        Refused: the proof cannot be read, has another common name, or is not signed by the CA.
    """
    proven = await caller.fleet.security.prove_manufacturer(name, proof, actor=caller.actor, reason=reason)
    return _manufacturer(proven)


@call("POST /manufacturers/{name}/disable", Permission.SECURITY_WRITE, cli="enrollment manufacturer disable NAME")
async def disable_manufacturer(caller: Caller, name: ManufacturerName, *, reason: Reason = "") -> ManufacturerResponse:
    """Disables a manufacturer's CA at once; enrolled devices stay.

    Raises:
        NotFound: there is no such CA.
    """
    return _manufacturer(await caller.fleet.security.manufacturers.disable(name, actor=caller.actor, reason=reason))


@call(
    "GET /enrollments", Permission.SECURITY_READ, scope=BY_CALL, cli="enrollment list",
    columns=("device", "fingerprint", "state", "created", "source", "decided_by"),
)  # fmt: skip
async def list_enrollments(
    caller: Caller, state: WantedState | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[EnrollmentResponse]:
    """Lists the keys that asked to enrol."""
    return await caller.page(
        caller.fleet.security.enrollment_records,
        lambda enrollment: enrollment.device,
        _enrollment,
        cursor,
        limit,
        ref=None if state is None else ("state", state),
    )


async def _asked(caller: Caller, enrollment: str) -> EnrollmentRecord:
    """The enrolment, where the caller has the permission on its device."""
    found = await caller.fleet.security.enrollment(enrollment)
    if found is None:
        raise missing("enrollment", enrollment)
    await caller.item(found.device, "enrollment", enrollment)
    return found


@call("GET /enrollments/{enrollment}", Permission.SECURITY_READ, scope=BY_CALL, cli="enrollment show ENROLLMENT")
async def get_enrollment(caller: Caller, enrollment: EnrollmentId) -> EnrollmentResponse:
    """Shows a key that asked to enrol.

    Raises:
        NotFound: there is no such enrolment.
    """
    return _enrollment(await _asked(caller, enrollment))


@call(
    "POST /enrollments/{enrollment}/approve", Permission.SECURITY_WRITE, scope=BY_CALL,
    cli="enrollment approve ENROLLMENT",
)  # fmt: skip
async def approve_enrollment(
    caller: Caller, enrollment: EnrollmentId, *, replace: Replace = False, reason: Reason = ""
) -> EnrollmentResponse:
    """Accepts a key: the device gets its certificate when it asks again.

    Compare the fingerprint with the one on the device; colons and capitals are ignored.

    Raises:
        NotFound: there is no such enrolment.
    """
    found = await _asked(caller, enrollment)
    decided = await caller.fleet.security.approve(
        found.device, found.fingerprint, replace=replace, actor=caller.actor, reason=reason
    )
    return _enrollment(decided)


@call(
    "POST /enrollments/{enrollment}/reject", Permission.SECURITY_WRITE, scope=BY_CALL,
    cli="enrollment reject ENROLLMENT",
)  # fmt: skip
async def reject_enrollment(caller: Caller, enrollment: EnrollmentId, *, reason: Reason = "") -> EnrollmentResponse:
    """Rejects a key. A certificate that it already has stays valid.

    Raises:
        NotFound: there is no such enrolment.
    """
    found = await _asked(caller, enrollment)
    decided = await caller.fleet.security.reject(found.device, found.fingerprint, actor=caller.actor, reason=reason)
    return _enrollment(decided)
