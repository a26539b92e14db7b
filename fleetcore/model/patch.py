"""JSON merge patches for hubs that merge what they receive and remove members that are null."""

import json
from collections.abc import Mapping
from typing import cast

Document = Mapping[str, object]


def patch(old: Document, new: Document) -> dict[str, object]:
    """The patch that turns ``old`` into ``new``: removed members are null."""
    changed: dict[str, object] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := patch(cast("Document", before), cast("Document", value)):
                changed[key] = inner
        elif key not in old or not same(before, value):
            changed[key] = value
    return changed


def same(item: object, other: object) -> bool:
    """Whether two values are the same JSON document: ``true`` differs from 1, and the order of members is ignored."""
    return json.dumps(item, sort_keys=True) == json.dumps(other, sort_keys=True)


def pointed(key: str) -> str:
    """A member's name as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
