"""Why a device is as it is."""

from litestar import get
from litestar.params import FromPath

from fleetcore.fleet.health import Health
from fleetcore.model.operator import Permission
from fleetcore_api.models import ChangeOut, MembershipOut, shown, when
from fleetcore_api.models_firmware import ExecutionOut
from fleetcore_api.models_seen import AnomalyOut, HealthOut, PresenceOut, WhyOut
from fleetcore_api.models_state import CommandOut
from fleetcore_api.parameters import Caller


def show_health(health: Health) -> HealthOut:
    """A score as it is answered."""
    return HealthOut(score=health.score, parts=dict(health.parts), counts=dict(health.counts))


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


HANDLERS = [why_device]
