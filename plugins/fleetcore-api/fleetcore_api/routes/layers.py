"""Layers of desired state: of the fleet, of groups, by policies."""

from litestar import Response, delete, get, patch
from litestar.params import FromPath, JSONBody

from fleetcore.calls.cursors import decode
from fleetcore.model.layer import Layer
from fleetcore.model.operator import Permission
from fleetcore_api.models import shown
from fleetcore_api.models_state import LayerIn, LayerOut, SectionOut
from fleetcore_api.pages import Cursor, Limit, Page, answered
from fleetcore_api.parameters import Caller, IfMatch, Why, named
from fleetcore_api.preconditions import etag, expected


def _show(layer: Layer) -> LayerOut:
    section = SectionOut(document=dict(layer.section.document), version=layer.section.version)
    return shown(LayerOut, layer, section=section, by=dict(layer.by))


def _answer(layer: Layer) -> Response[LayerOut]:
    return Response(_show(layer), headers={"ETag": etag(layer.section.version)})


@get("/layers", permission=Permission.DEVICES_READ, everywhere=True)
async def list_layers(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[LayerOut]:
    """Layers by name; a later kind (fleet, group, policy) overrides, among one kind the greater priority."""
    return answered(await access.fleet.twins.layers.records.page(after=decode(cursor), limit=limit), _show)


@get("/layers/{layer:str}", permission=Permission.DEVICES_READ, everywhere=True)
async def get_layer(access: Caller, layer: FromPath[str]) -> Response[LayerOut]:
    """One layer."""
    return _answer(access.fleet.twins.layers.get(named(layer)))


@patch("/layers/{layer:str}", permission=Permission.TWINS_WRITE, everywhere=True)
async def patch_layer(
    access: Caller, layer: FromPath[str], data: JSONBody[LayerIn], if_match: IfMatch = None
) -> Response[LayerOut]:
    """Merges a patch into a layer, or makes it; its devices follow."""
    if data.group is not None:
        access.fleet.groups.get(data.group)
    version = expected(if_match, required=True)
    made = await access.fleet.twins.layers.desire(
        named(layer),
        data.patch,
        kind=data.kind,
        group=data.group,
        priority=data.priority,
        if_version=version,
        actor=access.actor,
        reason=data.reason,
    )
    return _answer(made)


@delete("/layers/{layer:str}", permission=Permission.TWINS_WRITE, everywhere=True, status_code=204)
async def remove_layer(access: Caller, layer: FromPath[str], reason: Why = "") -> None:
    """Removes a layer; its devices fall back to what is below it."""
    await access.fleet.twins.layers.remove(named(layer), actor=access.actor, reason=reason)


HANDLERS = [list_layers, get_layer, patch_layer, remove_layer]
