"""Anomalies, health, and refused messages."""

from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody, PathParameter

from fleetcore.errors import NotFound
from fleetcore.fleet.health import Health
from fleetcore.model.dead_letter import DeadLetter
from fleetcore.model.message import Rejected
from fleetcore.model.operator import Permission
from fleetcore.runtime.replay import discard, replay
from fleetcore_api.access import Access, missing
from fleetcore_api.models import ChangeOut, MembershipOut, shown, when
from fleetcore_api.models_firmware import ExecutionOut
from fleetcore_api.models_seen import AnomalyOut, DeadLetterOut, HealthOut, PresenceOut, ReplayOut, WhyOut
from fleetcore_api.models_state import CommandOut, ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, of_few
from fleetcore_api.parameters import Caller, Why
from fleetcore_api.routes.telemetry import Device

LetterNumber = Annotated[int, PathParameter(ge=0, le=2**53)]


@get("/anomalies", permission=Permission.DEVICES_READ)
async def list_anomalies(
    access: Caller, device: Device = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[AnomalyOut]:
    """What detectors found, the oldest reading first."""
    if device is not None:
        await access.device(device)
    return await access.page(
        access.fleet.anomalies.records,
        lambda anomaly: anomaly.device,
        lambda anomaly: shown(AnomalyOut, anomaly),
        cursor,
        limit,
        ref=None if device is None else ("device", device),
    )


@get("/anomalies/{anomaly:str}", permission=Permission.DEVICES_READ)
async def get_anomaly(access: Caller, anomaly: FromPath[str]) -> AnomalyOut:
    """One anomaly."""
    found = await access.fleet.anomalies.get(anomaly)
    if found is None:
        raise missing("anomaly", anomaly)
    await access.item(found.device, "anomaly", anomaly, Permission.DEVICES_READ)
    return shown(AnomalyOut, found)


def show_health(health: Health) -> HealthOut:
    """A score as it is answered."""
    return HealthOut(score=health.score, parts=dict(health.parts), counts=dict(health.counts))


@get("/quarantine", permission=Permission.QUARANTINE_READ)
async def list_quarantine(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[DeadLetterOut]:
    """Refused messages that are kept, the oldest first."""
    letters = await access.fleet.dead_letters.list()
    allowed = await access.allowed({letter.device for letter in letters}, Permission.QUARANTINE_READ)
    mine = [letter for letter in letters if letter.device in allowed]
    return of_few(mine, cursor, limit, lambda one: f"{one.number:016d}", lambda one: shown(DeadLetterOut, one))


async def _letter(access: Access, number: int, permission: Permission) -> DeadLetter:
    try:
        found = await access.fleet.dead_letters.get(number)
    except NotFound:
        raise missing("dead letter", str(number)) from None
    await access.item(found.device, "dead letter", str(number), permission)
    return found


@get("/quarantine/{number:int}", permission=Permission.QUARANTINE_READ)
async def get_quarantine(access: Caller, number: LetterNumber) -> DeadLetterOut:
    """One refused message."""
    return shown(DeadLetterOut, await _letter(access, number, Permission.QUARANTINE_READ))


@post("/quarantine/{number:int}/replay", permission=Permission.QUARANTINE_WRITE, status_code=200)
async def replay_quarantine(access: Caller, number: LetterNumber, data: JSONBody[ReasonIn]) -> ReplayOut:
    """Puts a refused message through the data path again; one that is refused again is a new one."""
    letter = await _letter(access, number, Permission.QUARANTINE_WRITE)
    outcome = await replay(access.fleet, letter, actor=access.actor, reason=data.reason)
    if isinstance(outcome, Rejected):
        return ReplayOut(number=number, accepted=False, code=outcome.code, reason=outcome.reason)
    return ReplayOut(number=number, accepted=True)


@delete("/quarantine/{number:int}", permission=Permission.QUARANTINE_WRITE, status_code=204)
async def discard_quarantine(access: Caller, number: LetterNumber, reason: Why = "") -> None:
    """Removes a refused message for good."""
    letter = await _letter(access, number, Permission.QUARANTINE_WRITE)
    await discard(access.fleet, letter, actor=access.actor, reason=reason)


@get("/devices/{device_id:str}/why", permission=Permission.DEVICES_READ)
async def why_device(access: Caller, device_id: FromPath[str]) -> WhyOut:
    """Everything that bears on a device; ``findings`` says what is not as it should be, the most urgent first."""
    why = await access.fleet.asking.why(await access.device(device_id))
    return WhyOut(
        device=device_id,
        lifecycle=why.device.lifecycle,
        presence=shown(PresenceOut, why.presence),
        findings=list(why.findings),
        health=show_health(why.health),
        groups=[shown(MembershipOut, one) for one in why.groups],
        unconverged={at: when(since) or "" for at, since in why.unconverged.items()},
        refused=dict(why.refused),
        waiting=[shown(CommandOut, one) for one in why.waiting],
        updating=[shown(ExecutionOut, one) for one in why.updating],
        anomalies=[shown(AnomalyOut, one) for one in why.anomalies],
        changes=[shown(ChangeOut, row) for row in await access.rows(why.changes)],
    )


HANDLERS = [
    list_anomalies,
    get_anomaly,
    why_device,
    list_quarantine,
    get_quarantine,
    replay_quarantine,
    discard_quarantine,
]
