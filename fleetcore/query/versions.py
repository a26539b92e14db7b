"""Semantic Versioning 2.0.0: parsing versions and comparing them (§11)."""

import re
from typing import Any

_IDENTIFIER = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
#: The grammar of semver.org, anchored; build metadata is accepted and ignored.
_VERSION = re.compile(
    rf"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
#: A number with more digits is not a plausible version, and converting it would take long.
_MAX_LENGTH = 256

#: A sort key in the order of versions.
Key = tuple[Any, ...]


def version_key(text: str) -> Key | None:
    """The sort key of a version, or None where the text is not a version."""
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
