"""Layers of desired state: of the fleet, of groups, of policies. A device's own layer is part of its twin."""

from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.layers import LayerResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, IfVersion, Json, Label, Limit, Names, Page, Reason, to_response
from fleetcore.model.layer import Layer, LayerKind
from fleetcore.model.operator import Permission

LayerName = Annotated[Label, Meta(description="The layer's name."), Names("list_layers")]
LayerPatch = Annotated[Json, Meta(description="A merge patch (RFC 7396): omitted members stay, null deletes.")]
Kind = Annotated[LayerKind, Meta(description="A policy overrides groups, groups override the fleet.")]
LayerGroup = Annotated[Label, Meta(description="The group whose devices it is for.")]
Priority = Annotated[
    int, Meta(ge=-1_000_000, le=1_000_000, description="Among layers of a kind the greater overrides.")
]


def _layer(layer: Layer) -> LayerResponse:
    return to_response(LayerResponse, layer)


@call(
    "GET /layers", Permission.DEVICES_READ, cli="twin layer list",
    columns=("id", "kind", "group", "priority", "section"),
)  # fmt: skip
async def list_layers(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[LayerResponse]:
    """Lists the layers by name.

    A later kind (fleet, group, policy) overrides, and among layers of a kind the greater priority.
    """
    return answered(await caller.fleet.twins.layers.records.page(after=decode(cursor), limit=limit), _layer)


@call("GET /layers/{layer}", Permission.DEVICES_READ, cli="twin layer show LAYER")
async def get_layer(caller: Caller, layer: LayerName) -> LayerResponse:
    """Shows a layer.

    Raises:
        NotFound: there is no such layer.
    """
    return _layer(caller.fleet.twins.layers.get(layer))


@call("PATCH /layers/{layer}", Permission.TWINS_WRITE, cli="twin layer set LAYER PATCH", match_required=True)
async def set_layer(
    caller: Caller,
    layer: LayerName,
    patch: LayerPatch,
    *,
    kind: Kind = LayerKind.FLEET,
    group: LayerGroup | None = None,
    priority: Priority = 0,
    if_version: IfVersion | None = None,
    reason: Reason = "",
) -> LayerResponse:
    """Merges a patch into a layer, or makes the layer; its devices follow.

    Raises:
        NotFound: there is no such group.
        Refused: a group layer without a group, a fleet layer with one, another kind or group than before, a limit of
            twins, or the key ``fleetcore``.
        VersionConflict: the layer is not at ``if_version``.
    """
    if group is not None:
        caller.fleet.groups.get(group)
    made = await caller.fleet.twins.layers.desire(
        layer, patch, kind=kind, group=group, priority=priority, if_version=if_version, actor=caller.actor,
        reason=reason,
    )  # fmt: skip
    return _layer(made)


@call(
    "DELETE /layers/{layer}", Permission.TWINS_WRITE, cli="twin layer remove LAYER", status=204,
    confirm="Removes the layer {layer}: its settings no longer apply to any device.",
)  # fmt: skip
async def remove_layer(caller: Caller, layer: LayerName, *, reason: Reason = "") -> None:
    """Removes a layer; its devices fall back to the layers below it.

    Raises:
        NotFound: there is no such layer.
    """
    await caller.fleet.twins.layers.remove(layer, actor=caller.actor, reason=reason)
