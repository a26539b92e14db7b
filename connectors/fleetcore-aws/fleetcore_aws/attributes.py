"""A device's registration at AWS: thing type, attributes, groups, and the rest in the shadow ``meta``.

Pure. Everything that fits an attribute becomes one, so that a plain device costs one call; the other members are the
rest. Members added by fleetcore are called ``fleetcore:…``; ``fleetcore:fleet`` is the mark of the fleet that created
the thing.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from attrs import evolve, field, frozen

from fleetcore.model.mirror import Loss, RegistryBody
from fleetcore.model.patch import Document
from fleetcore.wire.records import from_plain, to_plain
from fleetcore_aws.documents import MAX_BYTES, holdable, size
from fleetcore_aws.names import THING

OWN = "fleetcore:"
MARK = f"{OWN}fleet"
GROUPS = f"{OWN}groups"
#: The digest of the rest; if present there is a shadow ``meta``.
META = f"{OWN}meta"

#: Attributes of a thing with and without a type (quotas of AWS IoT Core, "Thing resource limits").
_WITH_TYPE, _WITHOUT_TYPE = 50, 3
_MAX_GROUPS = 10
_NAME = re.compile(r"[a-zA-Z0-9_.,@/:#-]{1,128}", re.ASCII)
_MAX_VALUE_LENGTH = 800
_VALUE = re.compile(rf"[a-zA-Z0-9_.,@/:#-]{{1,{_MAX_VALUE_LENGTH}}}", re.ASCII)
_TEXTS = ("lifecycle", "model", "name", "gateway")
_LISTS = ("tags", "capabilities", "via")


@frozen(kw_only=True)
class LaidOut:
    """A registration as AWS stores it.

    Attributes:
        type: the thing type's name; None for a type with a too long name, which is in the rest.
        groups: names of thing groups.
        rest: members of the body for the shadow.
    """

    type: str | None
    attributes: Mapping[str, str]
    groups: tuple[str, ...] = ()
    rest: Document = field(factory=dict)

    @property
    def stands(self) -> Mapping[str, str]:
        """The attributes, with the digest of the rest if there is one."""
        if not self.rest:
            return self.attributes
        text = json.dumps(self.rest, sort_keys=True)
        return {**self.attributes, META: hashlib.sha256(text.encode()).hexdigest()[:16]}


def lay_out(body: RegistryBody, fleet: str, prefix: str) -> LaidOut:
    """Distributes a body that fits."""
    plain = {name: value for name, value in to_plain(body).items() if value not in ((), [], {})}
    if body.location is not None:  # their members are None by default, which a shadow cannot store
        plain["location"] = {name: value for name, value in to_plain(body.location).items() if value is not None}
    thing_type = THING.encode(body.type, prefix)
    room = _WITHOUT_TYPE if thing_type is None else _WITH_TYPE
    attributes = {MARK: fleet}
    room -= 2  # the mark, and the digest of a possible rest
    groups = tuple(name for each in body.groups if (name := THING.encode(each, prefix)) is not None)
    if groups:
        attributes[GROUPS] = ",".join(groups)
        room -= 1
    if thing_type is not None:
        del plain["type"]
    plain.pop("groups", None)
    for name, held in _own(plain).items():
        if room > 0:
            attributes[OWN + name] = held
            del plain[name]
            room -= 1
    given = dict(cast("Mapping[str, object]", plain.pop("attributes", {})))
    for name in sorted(given):
        value = given[name]
        if room > 0 and _is_plain(value) and _NAME.fullmatch(name) and not name.startswith(OWN):
            attributes[name] = str(value)
            del given[name]
            room -= 1
    if given:
        plain["attributes"] = given
    return LaidOut(type=thing_type, attributes=attributes, groups=groups, rest=plain)


def _own(plain: Mapping[str, object]) -> Mapping[str, str]:
    """The members of a body that fit into one attribute each."""
    found = {name: str(plain[name]) for name in _TEXTS if _is_plain(plain.get(name))}
    for name in _LISTS:
        parts = cast("Sequence[object]", plain.get(name, ()))
        if parts and all(_is_plain(part) and "," not in str(part) for part in parts):
            joined = ",".join(map(str, parts))
            if len(joined) <= _MAX_VALUE_LENGTH:
                found[name] = joined
    return found


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and _VALUE.fullmatch(value) is not None


def gathered(laid: LaidOut, prefix: str) -> RegistryBody:
    """The body from which :func:`lay_out` made it; ``groups`` as they are at AWS."""
    plain: dict[str, object] = {"type": "", "lifecycle": "", **laid.rest}
    if laid.type is not None:
        plain["type"] = THING.decode(laid.type, prefix) or laid.type
    given = dict(cast("Mapping[str, object]", laid.rest.get("attributes", {})))
    for name, value in laid.attributes.items():
        own = name.removeprefix(OWN) if name.startswith(OWN) else None
        if own is None:
            given[name] = value
        elif own in _TEXTS:
            plain[own] = value
        elif own in _LISTS:
            plain[own] = value.split(",")
    plain["attributes"] = given
    plain["groups"] = sorted(THING.decode(name, prefix) or name for name in laid.groups)
    return from_plain("registry", plain, RegistryBody)


def fit(body: RegistryBody, fleet: str, prefix: str) -> tuple[RegistryBody | None, list[Loss], LaidOut | None]:
    """The body as AWS can hold it, the losses, and its layout if nothing is lost.

    No body if it cannot be held at all.
    """
    lost: list[Loss] = []
    groups = _held_groups(body, prefix, lost)
    fitted = body if groups == body.groups else evolve(body, groups=groups)
    laid = lay_out(fitted, fleet, prefix)
    before = len(lost)
    rest = holdable(laid.rest, "", lost)
    if size({"reported": rest}) > MAX_BYTES:
        return (
            None,
            [Loss("", f"The members that do not fit attributes exceed the {MAX_BYTES} bytes of a shadow")],
            None,
        )
    if len(lost) > before:
        fitted = gathered(evolve(laid, rest=rest), prefix)
    return fitted, lost, None if lost else laid


def _held_groups(body: RegistryBody, prefix: str, lost: list[Loss]) -> tuple[str, ...]:
    kept: list[str] = []
    characters = 0
    for number, group in enumerate(body.groups):
        name = THING.encode(group, prefix)
        at = f"/groups/{number}"
        if name is None:
            lost.append(Loss(at, "The name is too long for a thing group"))
        elif len(kept) == _MAX_GROUPS:
            lost.append(Loss(at, f"A thing can be in at most {_MAX_GROUPS} groups"))
        elif characters + len(name) > _MAX_VALUE_LENGTH:
            lost.append(Loss(at, f"The names of a thing's groups may have at most {_MAX_VALUE_LENGTH} characters"))
        else:
            kept.append(group)
            characters += len(name) + 1
    return tuple(kept)
