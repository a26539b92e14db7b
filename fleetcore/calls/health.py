"""Health: a score of the fleet, of a group or of a device."""

from fleetcore.calls.caller import Caller
from fleetcore.calls.groups import GroupName
from fleetcore.calls.responses.anomalies import AnomalyResponse
from fleetcore.calls.responses.campaigns import ExecutionResponse
from fleetcore.calls.responses.commands import CommandResponse
from fleetcore.calls.responses.devices import ChangeResponse
from fleetcore.calls.responses.groups import MembershipResponse
from fleetcore.calls.responses.health import DiagnosisResponse, HealthResponse, PresenceResponse
from fleetcore.calls.table import call, on
from fleetcore.calls.types import DeviceId, Ms, to_response
from fleetcore.model.operator import Permission


@call("GET /health", Permission.DEVICES_READ, cli="health fleet")
async def get_fleet_health(caller: Caller) -> HealthResponse:
    """Shows the fleet's health: a score, its parts, and the counts behind them."""
    return to_response(HealthResponse, await caller.fleet.health.fleet())


@call("GET /groups/{group}/health", Permission.GROUPS_READ, scope=on("group"), cli="health group GROUP")
async def get_group_health(caller: Caller, group: GroupName) -> HealthResponse:
    """Shows the health of the group's devices that the caller may see.

    Raises:
        NotFound: there is no such group.
    """
    members = frozenset(caller.fleet.groups.members(group))
    health = await caller.fleet.health.of(sorted(await caller.allowed(members, Permission.DEVICES_READ)))
    return to_response(HealthResponse, health)


@call("GET /devices/{device_id}/health", Permission.DEVICES_READ, scope=on("device_id"), cli="health of DEVICE_ID")
async def get_device_health(caller: Caller, device_id: DeviceId) -> HealthResponse:
    """Shows the health of a device.

    Raises:
        NotFound: there is no such device.
    """
    return to_response(HealthResponse, await caller.fleet.health.device(device_id))


@call("GET /devices/{device_id}/why", Permission.DEVICES_READ, scope=on("device_id"), cli="health device DEVICE_ID")
async def diagnose_device(caller: Caller, device_id: DeviceId) -> DiagnosisResponse:
    """Shows everything that affects a device, problems first.

    Raises:
        NotFound: there is no such device.
    """
    found = await caller.fleet.diagnosis.why(device_id)
    return DiagnosisResponse(
        device=device_id,
        findings=list(found.findings),
        health=to_response(HealthResponse, found.health),
        lifecycle=found.device.lifecycle,
        presence=to_response(PresenceResponse, found.presence),
        groups=[to_response(MembershipResponse, membership) for membership in found.groups],
        unconverged={pointer: Ms(since) for pointer, since in found.unconverged.items()},
        refused=dict(found.refused),
        waiting=[to_response(CommandResponse, command) for command in found.waiting],
        updating=[to_response(ExecutionResponse, execution) for execution in found.updating],
        anomalies=[to_response(AnomalyResponse, anomaly) for anomaly in found.anomalies],
        changes=[to_response(ChangeResponse, row) for row in await caller.rows(found.changes)],
    )
