"""ETags and If-Match: a version in quotes."""

import re

from fleetcore.errors import FleetError, Refused, VersionConflict

_TAG = re.compile(r'(?:W/)?"?([A-Za-z]*)([0-9]{1,18})"?')
#: Several versions, each with a letter: ``"d3.r7.a2"``.
_SECTIONS = re.compile(r'"((?:[a-z][0-9]{1,18})(?:\.[a-z][0-9]{1,18})+)"')


def etag(version: int) -> str:
    """A version as a strong tag."""
    return f'"{version}"'


def expected(header: str | None, section: str = "", *, required: bool = False) -> int | None:
    """The version in ``If-Match``, of one section if the tag has several; None without one, or for ``*``.

    Raises:
        FleetError: ``precondition_required`` if it is required and absent.
        VersionConflict: for a tag that is in no answer, so it cannot match.
    """
    if header is None:
        if required:
            raise Refused(
                "If-Match is required", code="precondition_required", remedy="Send the ETag of the last answer"
            )
        return None
    if header.strip() == "*":
        return None
    several = _SECTIONS.fullmatch(header.strip()) if section else None
    if several is not None:
        versions = {part[0]: int(part[1:]) for part in several[1].split(".")}
        if section in versions:
            return versions[section]
    match = _TAG.fullmatch(header.strip())
    if match is None or match[1]:
        raise never(header)
    return int(match[2])


def never(header: str) -> FleetError:
    """The refusal of a tag that matches nothing."""
    return VersionConflict(f"{header[:64]!r} matches no version", remedy="Read it again and send its ETag")
