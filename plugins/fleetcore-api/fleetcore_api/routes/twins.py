"""Twins: read, change what is desired and what is known, look back."""

import re
from typing import Annotated

from litestar import Response, get, patch
from litestar.params import FromPath, JSONBody, QueryParameter

from fleetcore.errors import Refused, VersionConflict
from fleetcore.fleet.sections import check_document
from fleetcore.fleet.twins import twin_view
from fleetcore.model.device import Device
from fleetcore.model.operator import Permission
from fleetcore.model.twin import Twin, merge_patch, unconverged
from fleetcore.wire.times import format_time, parse_time
from fleetcore_api.access import Access
from fleetcore_api.models import Json, shown, when
from fleetcore_api.models_state import OriginOut, PastOut, TwinOut
from fleetcore_api.pages import Page
from fleetcore_api.parameters import Caller, IfMatch, Why
from fleetcore_api.preconditions import never

_TAG = re.compile(r'"d([0-9]{1,18})\.r([0-9]{1,18})\.a([0-9]{1,18})"')
_ONE = re.compile(r'"?([0-9]{1,18})"?')
#: How often a merge without a version is tried against others.
_ATTEMPTS = 20
Section = Annotated[str, QueryParameter(pattern="^(desired|reported)$")]


def _etag(twin: Twin, device: Device) -> str:
    return f'"d{twin.desired.version}.r{twin.reported.version}.a{device.version}"'


def _version(header: str | None, part: int) -> int | None:
    """The version of one section in the twin's ETag, or a bare number of that section; ``*`` is any."""
    if header is None:
        raise Refused(
            "A change of a twin needs If-Match", code="precondition_required", remedy="Send the ETag of GET …/twin"
        )
    if header.strip() == "*":
        return None
    whole, one = _TAG.fullmatch(header.strip()), _ONE.fullmatch(header.strip())
    if whole is None and one is None:
        raise never(header)
    return int(whole[part]) if whole is not None else int(one[1]) if one is not None else None


async def _answer(access: Access, device: str) -> Response[TwinOut]:
    twin, record = await access.fleet.twins.get(device), await access.fleet.devices.get(device)
    view = twin_view(twin, access.fleet.clock.now_ms())
    body = TwinOut(
        **view,  # type: ignore[arg-type]  # the wire's own view (WIRE.md §5)
        attributes=dict(record.attributes),
        acknowledged=twin.acknowledged,
        refused=dict(twin.refused),
        origins={at: shown(OriginOut, one) for at, one in access.fleet.twins.layers.origins(twin).items()},
        unconverged={at: format_time(since) for at, since in unconverged(twin).items()},
    )
    return Response(body, headers={"ETag": _etag(twin, record)})


@get("/devices/{device_id:str}/twin", permission=Permission.DEVICES_READ)
async def get_twin(access: Caller, device_id: FromPath[str]) -> Response[TwinOut]:
    """All sections of a device's twin and what of the desired one is not reported yet."""
    return await _answer(access, await access.device(device_id))


@patch("/devices/{device_id:str}/twin/desired", permission=Permission.TWINS_WRITE)
async def patch_desired(
    access: Caller, device_id: FromPath[str], data: JSONBody[Json], if_match: IfMatch = None, reason: Why = ""
) -> Response[TwinOut]:
    """Merges a patch (RFC 7396) into the desired section: compare-and-set by ``If-Match``."""
    await access.device(device_id, Permission.TWINS_WRITE)
    version = _version(if_match, 1)
    await access.fleet.twins.desire(device_id, data, if_version=version, actor=access.actor, reason=reason)
    return await _answer(access, device_id)


@patch("/devices/{device_id:str}/twin/attributes", permission=Permission.DEVICES_WRITE)
async def patch_attributes(
    access: Caller, device_id: FromPath[str], data: JSONBody[Json], if_match: IfMatch = None, reason: Why = ""
) -> Response[TwinOut]:
    """Merges a patch into the attributes, which the device does not see."""
    await access.device(device_id, Permission.DEVICES_WRITE)
    version = _version(if_match, 3)
    check_document(data, access.fleet.limits)
    for attempt in range(_ATTEMPTS):
        device = await access.fleet.devices.get(device_id)
        merged = merge_patch(dict(device.attributes), data)
        assert isinstance(merged, dict)
        at = device.version if version is None else version
        try:
            await access.fleet.devices.change(
                device_id, if_version=at, actor=access.actor, reason=reason, attributes=merged
            )
        except VersionConflict:
            if version is not None or attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    return await _answer(access, device_id)


@get("/devices/{device_id:str}/twin/history", permission=Permission.DEVICES_READ)
async def twin_history(access: Caller, device_id: FromPath[str], section: Section = "desired") -> Page[PastOut]:
    """The changes of a section that are kept, the newest first."""
    await access.device(device_id)
    found = await access.fleet.twins.history(device_id, section)
    items = [
        PastOut(
            version=int(one.id.rpartition("/")[2]),
            time=when(one.time) or "",
            by=one.by,
            reason=one.reason,
            undo=dict(one.undo),
        )
        for one in found
    ]
    return Page(items=items, next=None)


@get("/devices/{device_id:str}/twin/past", permission=Permission.DEVICES_READ)
async def twin_past(
    access: Caller,
    device_id: FromPath[str],
    at: Annotated[str, QueryParameter(max_length=64, description="RFC 3339, or ms since the epoch.")],
    section: Section = "desired",
) -> Json:
    """A section as it was at a time."""
    await access.device(device_id)
    time = parse_time(int(at) if at.isascii() and at.isdigit() else at)
    return dict(await access.fleet.twins.as_of(device_id, time, section))


HANDLERS = [get_twin, patch_desired, patch_attributes, twin_history, twin_past]
