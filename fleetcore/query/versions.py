"""Semantic Versioning 2.0.0: what is a version, and which of two comes first (§11)."""

import re
from typing import Any

_IDENTIFIER = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
#: The grammar of semver.org, anchored; build metadata is read and does not count.
_VERSION = re.compile(
    rf"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
#: A number of more digits is not a version of anything, and reading it would take long.
_MAX_LENGTH = 256

#: Sorts as the versions do.
Key = tuple[Any, ...]


def version_key(text: str) -> Key | None:
    """What sorts as the version does, or None where the text is not a version."""
    found = _VERSION.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if found is None:
        return None
    major, minor, patch, pre = found.groups()
    # A release comes after all its pre-releases; numbers come before words.
    rest = (
        (1,)
        if pre is None
        else (0, *((0, int(item), "") if item.isdigit() else (1, 0, item) for item in pre.split(".")))
    )
    return int(major), int(minor), int(patch), rest
