"""Content-Formats (RFC 7252 §12.3) as the media types of the fleet, and bodies in the requested format."""

from collections.abc import Mapping
from types import MappingProxyType

import cbor2

from fleetcore.errors import Refused
from fleetcore.wire.strict_json import dumps

LINK_FORMAT, OCTET_STREAM, JSON, CBOR, CONCISE_PROBLEM, PKCS10 = 40, 42, 50, 60, 257, 286
_TYPES: Mapping[int, str] = MappingProxyType(
    {
        OCTET_STREAM: "application/octet-stream",
        JSON: "application/json",
        52: "application/merge-patch+json",
        CBOR: "application/cbor",
        110: "application/senml+json",
        112: "application/senml+cbor",
        PKCS10: "application/pkcs10",
    }
)
_NUMBERS = {name: number for number, name in _TYPES.items()}


def media_type(number: int | None) -> str | None:
    """The media type of a Content-Format, None without one; raises Refused for an unsupported one."""
    if number is None:
        return None
    known = _TYPES.get(number)
    if known is None:
        raise Refused(
            f"Content-Format {number} is not supported; supported are {', '.join(map(str, _TYPES))}",
            code="media_type_unsupported",
        )
    return known


def number_of(media_type: str) -> int | None:
    """The Content-Format of a media type, or None."""
    return _NUMBERS.get(media_type)


def answer_format(accept: int | None, content_format: int | None) -> int:
    """The format of an answer: as requested, else that of the request, else JSON."""
    if accept in {JSON, CBOR}:
        assert accept is not None
        return accept
    return CBOR if content_format in {CBOR, 112} else JSON


def encoded(body: Mapping[str, object], number: int) -> bytes:
    """A body as bytes of ``JSON`` or ``CBOR``."""
    return cbor2.dumps(dict(body)) if number == CBOR else dumps(dict(body))
