"""What turns one JSON document into another where a hub merges what it is sent, and members that are null go."""

import json
from collections.abc import Mapping
from typing import cast

Document = Mapping[str, object]


def patch(old: Document, new: Document) -> dict[str, object]:
    """What turns ``old`` into ``new``: members that went are null."""
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
    """Whether two values are one JSON document: ``true`` is not 1, order of members is none."""
    return json.dumps(item, sort_keys=True) == json.dumps(other, sort_keys=True)


def pointed(key: str) -> str:
    """A member's name as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
