"""Twins: a device's desired and reported state, the fleet's attributes of it, and their history."""

from typing import Annotated, Literal

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.responses.twins import OriginResponse, TwinChangeResponse, TwinResponse
from fleetcore.calls.table import call, on
from fleetcore.calls.types import DeviceId, IfVersion, In, Json, Ms, Page, Reason, to_response
from fleetcore.fleet.twins import twin_view
from fleetcore.model.operator import Permission
from fleetcore.model.twin import unconverged

TwinPatch = Annotated[
    Json, In("body"), Meta(description="A merge patch (RFC 7396): omitted members stay, null deletes.")
]
DesiredVersion = Annotated[IfVersion, In("if-match", "d")]
AttributesVersion = Annotated[IfVersion, In("if-match", "a")]
TwinSection = Annotated[Literal["desired", "reported"], Meta(description="Which section.")]


async def _twin(caller: Caller, device_id: str) -> TwinResponse:
    fleet = caller.fleet
    twin, device = await fleet.twins.get(device_id), await fleet.devices.get(device_id)
    now = fleet.clock.now_ms()
    view = twin_view(twin, now)
    del view["time"]
    origins = fleet.twins.layers.origins(twin)
    return to_response(
        TwinResponse,
        twin,
        **view,
        attributes=device.attributes,
        attributes_version=device.version,
        origins={at: to_response(OriginResponse, origin) for at, origin in origins.items()},
        unconverged={at: Ms(since) for at, since in unconverged(twin).items()},
        time=now,
    )


@call("GET /devices/{device_id}/twin", Permission.DEVICES_READ, scope=on("device_id"), cli="twin show DEVICE_ID")
async def get_twin(caller: Caller, device_id: DeviceId) -> TwinResponse:
    """Shows a device's twin: desired and reported state, the differences and since when, and the attributes.

    Raises:
        NotFound: there is no such device.
    """
    return await _twin(caller, device_id)


@call(
    "PATCH /devices/{device_id}/twin/desired", Permission.TWINS_WRITE, scope=on("device_id"),
    cli="twin set DEVICE_ID PATCH", match_required=True,
)  # fmt: skip
async def set_desired(
    caller: Caller,
    device_id: DeviceId,
    patch: TwinPatch,
    *,
    if_version: DesiredVersion | None = None,
    reason: Reason = "",
) -> TwinResponse:
    """Merges a patch into a device's desired state; a patch without effect makes no new version.

    Raises:
        NotFound: there is no such device.
        Refused: the section would exceed a limit, or the patch sets the key ``fleetcore``.
        VersionConflict: the desired section is not at ``if_version``.
    """
    await caller.fleet.twins.desire(device_id, patch, if_version=if_version, actor=caller.actor, reason=reason)
    return await _twin(caller, device_id)


@call(
    "PATCH /devices/{device_id}/twin/attributes", Permission.DEVICES_WRITE, scope=on("device_id"),
    cli="twin attributes DEVICE_ID PATCH", match_required=True,
)  # fmt: skip
async def set_attributes(
    caller: Caller,
    device_id: DeviceId,
    patch: TwinPatch,
    *,
    if_version: AttributesVersion | None = None,
    reason: Reason = "",
) -> TwinResponse:
    """Merges a patch into a device's attributes, which are not sent to it.

    Raises:
        NotFound: there is no such device.
        Refused: the attributes would exceed a limit.
        VersionConflict: the device is not at ``if_version``.
    """
    await caller.fleet.devices.merge_attributes(
        device_id, patch, if_version=if_version, actor=caller.actor, reason=reason
    )
    return await _twin(caller, device_id)


@call(
    "GET /devices/{device_id}/twin/history", Permission.DEVICES_READ, scope=on("device_id"),
    cli="twin history DEVICE_ID", columns=("version", "time", "by", "reason", "undo"),
)  # fmt: skip
async def list_twin_history(
    caller: Caller, device_id: DeviceId, *, section: TwinSection = "desired"
) -> Page[TwinChangeResponse]:
    """Lists the stored changes of a section, the newest first, each with the patch that undoes it.

    Raises:
        NotFound: there is no such device.
    """
    changes = await caller.fleet.twins.history(device_id, section)
    return Page(
        [to_response(TwinChangeResponse, change, version=int(change.id.rpartition("/")[2])) for change in changes]
    )


@call(
    "GET /devices/{device_id}/twin/past", Permission.DEVICES_READ, scope=on("device_id"), cli="twin past DEVICE_ID AT"
)
async def get_past_twin(caller: Caller, device_id: DeviceId, at: Ms, *, section: TwinSection = "desired") -> Json:
    """Shows a section of a device's twin as it was at a time.

    Args:
        at: the time, RFC 3339 or ms since the epoch.

    Raises:
        NotFound: there is no such device, or its history does not reach back that far.
    """
    return dict(await caller.fleet.twins.as_of(device_id, at, section))
