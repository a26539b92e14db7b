"""The part of an entity that a mirror may also take from a hub: a device's desired state, and its description.

A device's reported state belongs to the device, and the fleet's own data (lifecycle, groups, campaigns) to the fleet:
neither is taken from a hub.
"""

from collections.abc import Mapping
from typing import Literal, cast

from attrs import evolve

from fleetcore.model.mirror import Facet, MirrorBody, RegistryBody, TwinBody
from fleetcore.model.twin import OURS, Json

Part = Literal["desired", "registry"]

#: The facet of each part.
PARTS: Mapping[Part, Facet] = {"desired": "twin", "registry": "registry"}


def shared(body: MirrorBody) -> Json:
    """The shared part of a body as one document, without nulls; tags are members, so that each is a leaf."""
    match body:
        case TwinBody():
            return _without_nulls({name: value for name, value in body.desired.items() if name != OURS})
        case RegistryBody():
            tags = dict.fromkeys(body.tags, True)
            described = {"name": body.name, "model": body.model, "tags": tags, "attributes": body.attributes}
            return _without_nulls(described)
        case _:
            return {}


def with_shared(body: MirrorBody, document: Json) -> MirrorBody:
    """The body with another shared part."""
    match body:
        case TwinBody():
            ours = {name: value for name, value in body.desired.items() if name == OURS}
            return evolve(body, desired={**document, **ours})
        case RegistryBody():
            return evolve(
                body,
                name=cast("str | None", document.get("name")),
                model=cast("str | None", document.get("model")),
                tags=tuple(sorted(cast("Json", document.get("tags", {})))),
                attributes=cast("Json", document.get("attributes", {})),
            )
        case _:
            return body


def _without_nulls(document: Json) -> dict[str, object]:
    return {
        name: _without_nulls(value) if isinstance(value, Mapping) else value
        for name, value in document.items()
        if value is not None
    }
