"""The CAs: rotation, the forecast of expiries, revocation lists, and renewal of many devices in waves."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.commands import Cap, DeviceChoice, PlanDigest, RatePerS
from fleetcore.calls.cursors import page_of
from fleetcore.calls.operations import operation_response
from fleetcore.calls.responses.cas import (
    CaResponse,
    CertificateCheckResponse,
    DependentResponse,
    ForecastResponse,
    IncidentResponse,
    RenewalPlanResponse,
    RevocationListsResponse,
    RootOfflineResponse,
    RotationResponse,
    StepResponse,
)
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import call, on
from fleetcore.calls.types import (
    Cursor,
    DeviceId,
    Limit,
    MaxFailed,
    Ms,
    Page,
    Reason,
    Waves,
    Where,
    Word,
    to_response,
)
from fleetcore.errors import Refused
from fleetcore.model.operator import Permission
from fleetcore.query.fitting import parse_new

CaId = Annotated[str, Meta(min_length=1, max_length=1024, description="The CA's id, from the list of CAs.")]
RotationStep = Annotated[Literal["begin", "issue", "back", "retire"], Meta(description="The step to take.")]
Threshold = Annotated[float, Meta(ge=0, le=1, description="For `retire`: the share of devices that must confirm.")]
ForceStep = Annotated[bool, Meta(description="Proceed even if this locks devices out; the answer names them.")]
ForceDistrust = Annotated[bool, Meta(description="Proceed even if this locks devices out; they are named.")]
ForecastPeriod = Annotated[Literal["week", "month"], Meta(description="The unit of the periods.")]
Periods = Annotated[int, Meta(ge=1, le=520, description="The number of periods.")]
CountedBy = Annotated[Literal["type", "group"], Meta(description="Also count by this.")]
NextEndings = Annotated[int, Meta(ge=0, le=1000, description="The most certificates to name.")]
CertificatePem = Annotated[str, Meta(max_length=32_768, description="The certificate, PEM.")]
Outdated = Annotated[bool, Meta(description="Only devices without a certificate of the CA that signs now.")]
TimeoutS = Annotated[
    float, Meta(gt=0, le=31_622_400, description="Seconds within which a device must renew."), Word("timeout")
]
RootKey = Annotated[str, Meta(max_length=65_536, description="The private key of a root, PEM.")]
Passphrase = Annotated[str, Meta(max_length=4096, description="The passphrase that encrypts the key.")]
ServerFile = Annotated[str, Meta(min_length=1, max_length=4096, description="A new file on the server's machine.")]
OfflineRoot = Annotated[int, Meta(ge=1, description="Which root's key, if two are in the folder.")]


@call(
    "GET /cas", Permission.SECURITY_READ, cli="ca show",
    columns=("number", "kind", "state", "key", "name", "not_after", "due", "certificates", "id"),
)  # fmt: skip
async def list_cas(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[CaResponse]:
    """Lists the CAs: which one signs, which are trusted, when each expires and when its successor is due.

    They are roots, issuing CAs, former ones whose revocation lists are still made, and the cross certificate.
    """
    found = await caller.fleet.security.cas()
    order = {(ca.kind, ca.id): f"{place:06d}" for place, ca in enumerate(found)}
    return page_of(found, cursor, limit, lambda ca: order[ca.kind, ca.id], lambda ca: to_response(CaResponse, ca))


@call("POST /cas", Permission.CA_WRITE, cli="ca renew-issuing", status=201)
async def renew_issuing_ca(caller: Caller, *, reason: Reason = "") -> StepResponse:
    """Makes a new issuing CA under the same root, which signs from now on; the one before stays trusted.

    Raises:
        IllegalTransition: a rotation is in progress.
        Conflict: ``root_offline``; the root's key is offline and not unlocked.
    """
    done = await caller.fleet.security.rotation.renew_issuing(actor=caller.actor, reason=reason)
    return to_response(StepResponse, done)


@call("GET /cas/{ca}/incident", Permission.SECURITY_READ, cli="ca incident CA")
async def get_ca_incident(caller: Caller, ca: CaId) -> IncidentResponse:
    """Lists the devices with certificates of an issuing CA; ``sole_certificate`` marks those without any other.

    Raises:
        NotFound: there is no such issuing CA.
    """
    found = await caller.fleet.security.incident(ca)
    return IncidentResponse(
        ca=ca,
        devices=len(found),
        sole_certificate=sum(dependent.sole_certificate for dependent in found),
        dependents=[to_response(DependentResponse, dependent) for dependent in found],
    )


@call(
    "POST /cas/{ca}/distrust", Permission.CA_WRITE, cli="ca distrust CA",
    confirm="Ends trust in the issuing CA {ca} for good: all its certificates are refused at once.",
)  # fmt: skip
async def distrust_ca(caller: Caller, ca: CaId, *, force: ForceDistrust = False, reason: Reason = "") -> StepResponse:
    """Ends trust in an issuing CA whose key is compromised: all its certificates are refused from now on.

    Raises:
        NotFound: no such issuing CA is trusted.
        Conflict: it signs now, it is the only one under its root, or ``devices_would_be_locked_out``.
    """
    done = await caller.fleet.security.rotation.distrust(ca, force=force, actor=caller.actor, reason=reason)
    return to_response(StepResponse, done)


@call("GET /ca-rotation", Permission.SECURITY_READ, cli="ca rotate status")
async def get_ca_rotation(caller: Caller) -> RotationResponse:
    """Shows the phase of a rotation, how many devices confirmed the new bundle, and which retiring would lock out."""
    return to_response(RotationResponse, await caller.fleet.security.rotation.status())


_OF_NO_STEP = {"threshold": 1.0, "force": False}


@call(
    "POST /ca-rotation/{step}", Permission.CA_WRITE, no_cli="each step has a command of its own",
    also={
        "ca rotate begin": {"step": "begin", **_OF_NO_STEP},
        "ca rotate issue": {"step": "issue", **_OF_NO_STEP},
        "ca rotate back": {"step": "back", "threshold": 1.0},
        "ca rotate retire": {"step": "retire"},
    },
    confirm="Ends trust in the old root for good: its certificates are refused from now on.",
    confirm_when={"step": "retire"},
)  # fmt: skip
async def rotate_ca(
    caller: Caller,
    step: RotationStep,
    *,
    threshold: Threshold = 1.0,
    force: ForceStep = False,
    reason: Reason = "",
) -> StepResponse:
    """Takes a step from one root to the next; until ``retire``, ``back`` undoes the last step.

    ``begin`` announces a new root: both are trusted, devices get the new bundle, the old one still signs. ``issue``
    makes the new root's CA sign. ``retire`` ends trust in the old root, for good.

    Raises:
        IllegalTransition: the step is not possible in this phase.
        Conflict: ``devices_would_be_locked_out``, or ``root_offline``: the root's key is offline and not unlocked.
    """
    done = await caller.fleet.security.rotation.step(
        step, threshold=threshold, force=force, actor=caller.actor, reason=reason
    )
    return to_response(StepResponse, done)


@call(None, Permission.CA_WRITE, no_cli="`--root-key` of the commands that need it")
async def unlock_root_key(caller: Caller, key: RootKey, *, passphrase: Passphrase | None = None) -> None:
    """Unlocks an offline root's key for the next call that needs it, for ten minutes; it is not stored.

    Raises:
        ConfigError: the key cannot be read.
        Refused: it is not the key of a trusted root.
    """
    caller.fleet.security.rotation.lend(key, passphrase)


@call(None, Permission.CA_WRITE, cli="ca take-offline FILE")
async def take_root_offline(
    caller: Caller,
    file: ServerFile,
    *,
    passphrase: Passphrase | None = None,
    number: OfflineRoot | None = None,
    reason: Reason = "",
) -> RootOfflineResponse:
    """Moves a root's key out of the data folder into a new file. Only a rotation and a new issuing CA need it.

    The file is encrypted with the passphrase, or without one with that of the folder's own keys, if there is one.

    Raises:
        NotFound: the folder holds no such key.
        Refused: the fleet is in memory, or the keys of two roots are in the folder and ``number`` selects neither.
    """
    security = caller.fleet.security
    root = await security.rotation.take_offline(
        Path(file), passphrase=passphrase, number=number, actor=caller.actor, reason=reason
    )
    encrypted = passphrase is not None or (security.folder is not None and security.folder.passphrase is not None)
    return RootOfflineResponse(file=file, root=root.number, encrypted=encrypted)


@call("GET /certificate-forecast", Permission.SECURITY_READ, cli="ca forecast")
async def forecast_certificates(
    caller: Caller,
    *,
    per: ForecastPeriod = "week",
    periods: Periods = 12,
    by: CountedBy | None = None,
    where: Where | None = None,
    next: NextEndings = 10,
) -> ForecastResponse:
    """Counts the certificates that expire in each coming week or month; lists the next ones, and late renewals.

    It also shows when the CAs and the server's own certificates expire.

    Raises:
        QuerySyntaxError: the query cannot be read.
    """
    security = caller.fleet.security
    clause = None if where is None else parse_new(where)
    found = await caller.fleet.expiry_forecast.forecast(per=per, periods=periods, by=by, where=clause, next=next)
    return to_response(
        ForecastResponse,
        found,
        cas=await security.cas(),
        own={name: Ms(time) for name, time in security.own_ends().items()},
    )


@call("POST /certificate-checks", Permission.SECURITY_READ, cli="ca check PEM")
async def check_certificate(caller: Caller, pem: CertificatePem) -> CertificateCheckResponse:
    """Checks a certificate as if a device had presented it: whether it is valid now, and why it is refused."""
    return to_response(CertificateCheckResponse, await caller.fleet.security.validate(pem.encode()))


@call("GET /revocation-lists", Permission.SECURITY_READ, cli="ca crl")
async def get_revocation_lists(caller: Caller) -> RevocationListsResponse:
    """Gives the revocation lists, PEM, of every issuing CA with unexpired certificates."""
    return RevocationListsResponse(crl=(await caller.fleet.security.revocation_lists()).decode())


@call("POST /renewals", Permission.SECURITY_WRITE, selected_by="dry_run", no_cli="`ca renew-devices --dry-run`")
async def plan_renewals(
    caller: Caller,
    *,
    where: Where | None = None,
    devices: DeviceChoice = (),
    outdated: Outdated = False,
    waves: Waves = ("1", "10%"),
    cap: Cap = 1000,
    rate_per_s: RatePerS | None = None,
    timeout_s: TimeoutS = 86_400.0,
    max_failed: MaxFailed = 0.05,
    plan: PlanDigest | None = None,
    reason: Reason = "",
) -> RenewalPlanResponse:
    """Shows which devices a renewal would ask for new certificates, and in which waves.

    It takes the parameters of ``renew_certificates``; rate, time, failures, plan and reason have no effect here.

    Raises:
        NotFound: there is no such device.
        QuerySyntaxError: the query cannot be read.
        Refused: a query and devices, or neither of them and not ``outdated``.
    """
    del rate_per_s, timeout_s, max_failed, plan, reason
    found = await caller.fleet.renewals.plan(
        where=where, devices=tuple(devices), outdated=outdated, waves=tuple(waves), cap=cap
    )
    return to_response(RenewalPlanResponse, found)


@call("POST /renewals", Permission.SECURITY_WRITE, status=202, cli="ca renew-devices")
async def renew_certificates(
    caller: Caller,
    *,
    where: Where | None = None,
    devices: DeviceChoice = (),
    outdated: Outdated = False,
    waves: Waves = ("1", "10%"),
    cap: Cap = 1000,
    rate_per_s: RatePerS | None = None,
    timeout_s: TimeoutS = 86_400.0,
    max_failed: MaxFailed = 0.05,
    plan: PlanDigest | None = None,
    reason: Reason = "",
) -> OperationResponse:
    """Asks the devices of ``plan_renewals`` for new certificates with new keys, in waves, in the background.

    It stops when more than the share ``max_failed`` of the devices in the waves so far has failed.

    Raises:
        NotFound: there is no such device.
        Conflict: ``plan_changed``, other devices are selected now.
        Refused: ``precondition_required`` without a plan, ``limit_exceeded`` beyond the cap, and as ``plan_renewals``.
    """
    if plan is None:
        raise Refused(
            "A renewal in waves requires its plan",
            code="precondition_required",
            remedy="Request the plan first (dry_run=true), check it, and send the same request with its `plan`",
        )
    operation = await caller.fleet.renewals.start(
        where=where, devices=tuple(devices), outdated=outdated, waves=tuple(waves), cap=cap, rate_per_s=rate_per_s,
        timeout_s=timeout_s, max_failed=max_failed, plan=plan, actor=caller.actor, reason=reason,
    )  # fmt: skip
    return await operation_response(caller, operation)


@call(
    "POST /devices/{device_id}/renew", Permission.SECURITY_WRITE, scope=on("device_id"), status=202,
    cli="device renew DEVICE_ID",
)  # fmt: skip
async def reissue_certificate(
    caller: Caller, device_id: DeviceId, *, timeout_s: TimeoutS = 86_400.0, reason: Reason = ""
) -> OperationResponse:
    """Asks a device for a new certificate with a new key; the operation ends when the device has connected with it.

    Raises:
        NotFound: there is no such device.
        Conflict: it has no certificate to renew.
    """
    operation = await caller.fleet.renewals.reissue(device_id, timeout_s=timeout_s, actor=caller.actor, reason=reason)
    return await operation_response(caller, operation)
