"""A device's registration as tags of its twin. Pure.

Each attribute is a separate tag, so that queries can use its name: ``tags.site = 'north'``. Everything else is in
``tags.fleetcore``; groups are true members there: ``tags.fleetcore.groups.lab = true``.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import evolve

from fleetcore.model.mirror import Loss, RegistryBody
from fleetcore.model.patch import Document, pointed
from fleetcore.wire.records import from_plain, to_plain
from fleetcore_azure.documents import holdable, size
from fleetcore_azure.held import OWN, section
from fleetcore_azure.names import KEY

#: Of the 8 kB of tags; the other half is for reported state (twins.py).
MAX_BYTES = 4096
#: Members of ``tags.fleetcore`` that belong to the registration.
MEMBERS = (
    "type", "lifecycle", "model", "name", "tags", "capabilities", "groups", "gateway", "location", "via",
)  # fmt: skip
#: States in which a device may not connect.
_DISABLED = frozenset({"suspended", "quarantined", "retired"})


def status_of(body: RegistryBody) -> str:
    """The identity's status."""
    return "disabled" if body.lifecycle in _DISABLED else "enabled"


def lay_out(body: RegistryBody, mark: str) -> dict[str, object]:
    """The tags of a body that fits."""
    plain = {name: value for name, value in to_plain(body).items() if value not in ((), [], {})}
    own: dict[str, object] = {"fleet": mark}
    for name in MEMBERS:
        if name in plain:
            own[name] = plain[name]
    if body.groups:
        own["groups"] = {_named(each): True for each in body.groups}
    if body.location is not None:  # their members are None by default, which a twin cannot store
        own["location"] = {name: value for name, value in to_plain(body.location).items() if value is not None}
    given = cast("Mapping[str, object]", plain.get("attributes", {}))
    return {**{_named(key): value for key, value in given.items()}, OWN: own}


def _named(text: str) -> str:
    return KEY.encode(text) or text


def gathered(tags: Document) -> RegistryBody:
    """The body in tags."""
    own = section(tags, OWN)
    plain: dict[str, object] = {"type": "", "lifecycle": "", **{name: own[name] for name in MEMBERS if name in own}}
    plain["groups"] = sorted(KEY.decode(name) or name for name in section(own, "groups"))
    plain["attributes"] = {KEY.decode(name) or name: value for name, value in tags.items() if name != OWN}
    return from_plain("registry", plain, RegistryBody)


def registration_of(tags: Document) -> dict[str, object]:
    """The registration's part of the tags."""
    own = section(tags, OWN)
    kept = {name: own[name] for name in ("fleet", *MEMBERS) if name in own}
    return {**{name: value for name, value in tags.items() if name != OWN}, OWN: kept}


def fit(body: RegistryBody, mark: str) -> tuple[RegistryBody | None, Sequence[Loss]]:
    """The body as the hub can hold it, and the losses; None if it cannot be held at all."""
    lost: list[Loss] = []
    attributes: dict[str, object] = {}
    for key, value in body.attributes.items():
        at = f"/attributes/{pointed(key)}"
        name = KEY.encode(key)
        if key == OWN:
            lost.append(Loss(at, "The tags of fleetcore use this name"))
        elif name is None:
            lost.append(Loss(at, "The name is empty or too long for a tag"))
        else:
            inner: list[Loss] = []
            held = holdable({name: value}, "", inner)
            lost += [evolve(loss, path=at + loss.path.removeprefix(f"/{pointed(name)}")) for loss in inner]
            if name in held:
                attributes[key] = held[name]
    groups = tuple(name for name in body.groups if KEY.encode(name) is not None)
    lost += [
        Loss(f"/groups/{at}", "The name is too long for a tag")
        for at, name in enumerate(body.groups)
        if name not in groups
    ]
    fitted = evolve(body, attributes=attributes, groups=groups) if lost else body
    tags = lay_out(fitted, mark)
    own: list[Loss] = []
    held_own = holdable(section(tags, OWN), "", own)
    if own:
        fitted = gathered({**tags, OWN: held_own})
        tags = lay_out(fitted, mark)
        lost += own
    if size(tags) > MAX_BYTES:
        return None, [
            Loss("", f"Its tags have {size(tags)} bytes; a registration may have {MAX_BYTES} of the hub's 8 kB")
        ]
    return fitted, lost
