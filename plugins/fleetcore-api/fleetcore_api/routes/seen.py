"""Anomalies, health, and refused messages."""

from litestar import get
from litestar.params import FromPath

from fleetcore.fleet.health import Health
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.operator import Permission
from fleetcore_api.access import missing
from fleetcore_api.models import shown
from fleetcore_api.models_seen import AnomalyOut, DeadLetterOut, HealthOut
from fleetcore_api.pages import Cursor, Limit, Page, cut
from fleetcore_api.parameters import Caller
from fleetcore_api.routes.telemetry import Device


def _key(anomaly: Anomaly) -> str:
    return f"{anomaly.time:016d}/{anomaly.id}"


@get("/anomalies", permission=Permission.DEVICES_READ)
async def list_anomalies(
    access: Caller, device: Device = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[AnomalyOut]:
    """What detectors found, the oldest reading first."""
    if device is not None:
        await access.device(device)
    found = await access.of_devices(await access.fleet.anomalies.list(device), lambda one: one.device)
    return cut(found, cursor, limit, _key, lambda one: shown(AnomalyOut, one))


@get("/anomalies/{anomaly:str}", permission=Permission.DEVICES_READ)
async def get_anomaly(access: Caller, anomaly: FromPath[str]) -> AnomalyOut:
    """One anomaly."""
    found = await access.fleet.anomalies.get(anomaly)
    if found is None:
        raise missing("anomaly", anomaly)
    await access.item(found.device, "anomaly", anomaly, Permission.DEVICES_READ)
    return shown(AnomalyOut, found)


def _health(health: Health) -> HealthOut:
    return HealthOut(score=health.score, parts=dict(health.parts), counts=dict(health.counts))


@get("/health", permission=Permission.DEVICES_READ, everywhere=True)
async def fleet_health(access: Caller) -> HealthOut:
    """The fleet's health, of its parts."""
    return _health(await access.fleet.health.fleet())


@get("/devices/{device_id:str}/health", permission=Permission.DEVICES_READ)
async def device_health(access: Caller, device_id: FromPath[str]) -> HealthOut:
    """One device's."""
    return _health(await access.fleet.health.device(await access.device(device_id)))


@get("/quarantine", permission=Permission.QUARANTINE_READ)
async def list_quarantine(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[DeadLetterOut]:
    """Refused messages that are kept, the oldest first."""
    letters = await access.of_devices(
        await access.fleet.dead_letters.list(), lambda one: one.device, Permission.QUARANTINE_READ
    )
    return cut(letters, cursor, limit, lambda one: f"{one.number:016d}", lambda one: shown(DeadLetterOut, one))


HANDLERS = [list_anomalies, get_anomaly, fleet_health, device_health, list_quarantine]
