"""The header section of an HTTP request, read in one way by every listener: devices' and operators'.

If a proxy and a server read one header differently, a request can pass the first with one meaning and run on the second
with another. So this module decides the meaning of fields: which may occur only once, how the body is framed, its media
type, the credential, and the idempotency key.

It does not know which media types an operation takes, or who may do what.
"""

from collections.abc import Collection, Iterable, Mapping

from attrs import frozen

from fleetcore.errors import Refused

#: Fields that decide what happens. A second one is refused: a proxy, a log and a server might each use a different one.
#: Content-Length twice with the same number is one length by RFC 9112 §6.3, and a parser may have merged them.
ONCE = frozenset({
    "authorization", "client-cert", "content-encoding", "content-length", "content-type", "expect",
    "fleetcore-position", "host", "idempotency-key", "if-match", "if-none-match", "if-range", "last-event-id",
    "range", "transfer-encoding",
})  # fmt: skip
#: Dead letters store the media type, cut to the longest possible one (RFC 6838 §4.2 has 127 for each part).
_MAX_MEDIA_TYPE = 255
_UTF_8 = frozenset({"utf-8", "utf8"})


def media_type(declared: str) -> str:
    """A declared content type in lower case, without the parameters that change nothing.

    A charset other than UTF-8 (RFC 8259 §8.1) changes the meaning of the bytes: then the parameters stay, and no codec
    reads the resulting type. The same holds for an unparsable type. Applying it again gives the same.
    """
    if ";" not in declared:
        return declared.strip().lower()[:_MAX_MEDIA_TYPE]
    found, *parameters = (part.strip() for part in declared.lower().split(";"))
    for parameter in parameters:
        name, equals, value = (part.strip() for part in parameter.partition("="))
        if parameter and (not equals or (name == "charset" and value.strip('"') not in _UTF_8)):
            return declared.strip().lower()[:_MAX_MEDIA_TYPE]
    return found[:_MAX_MEDIA_TYPE]


def unsupported(declared: str, readable: Collection[str]) -> Refused:
    """The refusal (415) of a body of type ``declared``; it lists the readable types."""
    return Refused(
        f"A body of type {declared[:100]!r} cannot be read here; send {' or '.join(readable)}",
        code="media_type_unsupported",
    )


@frozen
class Headers:
    """The fields of one request; made by :meth:`of`."""

    _fields: Mapping[str, str]

    @classmethod
    def of(cls, fields: Iterable[tuple[bytes, bytes]]) -> "Headers":
        """Reads them.

        Raises:
            Refused: ``payload_unreadable`` (400) for a repeated field that may occur only once, for Content-Length
                beside Transfer-Encoding, and for a Transfer-Encoding other than ``chunked``; ``schema_invalid`` for an
                expectation that is not ``100-continue``. After a refusal of the framing the end of the request is
                unknown: close the connection.
        """
        found: dict[str, str] = {}
        for raw, value in fields:
            name = raw.lower().decode("latin-1")
            if name in found:
                if name in ONCE:
                    raise _ambiguous(f"The header {name} occurs twice in the request", "Send it once")
                continue
            found[name] = value.decode("latin-1").strip()
        coding = found.get("transfer-encoding")
        if coding is not None:
            if "content-length" in found:
                raise _ambiguous("The request has both Content-Length and Transfer-Encoding", "Send one of them")
            if coding.lower() != "chunked":
                raise _ambiguous(f"The Transfer-Encoding {coding[:64]!r} is not supported", "Send chunked")
        length = found.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise _ambiguous(f"The Content-Length {length[:64]!r} is not a number of bytes", "Send one whole number")
        expectation = found.get("expect")
        if expectation is not None and expectation.lower() != "100-continue":
            raise Refused("The only supported expectation is 100-continue", code="schema_invalid")
        return cls(found)

    def get(self, name: str) -> str | None:
        """The value of a field by its name in lower case; for a repeatable field the first value."""
        return self._fields.get(name)

    @property
    def continues(self) -> bool:
        """Whether the sender waits for an interim response before it sends the body (RFC 9110 §10.1.1)."""
        return "expect" in self._fields

    @property
    def content_length(self) -> int | None:
        """The declared length of the body; a number too large to be a length counts as larger than any limit."""
        length = self._fields.get("content-length")
        return None if length is None else int(length[:19])

    @property
    def media_type(self) -> str | None:
        """The declared media type, see :func:`media_type`; None where none is declared."""
        declared = self._fields.get("content-type")
        return (media_type(declared) or None) if declared else None

    def check_media_type(self, readable: Collection[str]) -> None:
        """Raises Refused (415) for a declared media type that is not ``readable``; an undeclared one passes."""
        declared = self.media_type
        if declared is not None and declared not in readable:
            raise unsupported(declared, readable)

    def coding(self, readable: Collection[str]) -> str:
        """The content coding of the body, ``identity`` without one; raises Refused (415) if it is not ``readable``."""
        found = self._fields.get("content-encoding", "").lower() or "identity"
        found = "gzip" if found == "x-gzip" else found  # RFC 9110 §8.4.1.3
        if found not in ("identity", *readable):
            read = " or ".join(readable) if readable else "it as it is"
            reason = f"A body with Content-Encoding {found[:64]!r} cannot be read here; send {read}"
            raise Refused(reason, code="media_type_unsupported")
        return found

    def credential(self, scheme: str) -> str | None:
        """The credential in Authorization for ``scheme`` (in lower case, RFC 9110 §11.4), or None."""
        found, _, credential = self._fields.get("authorization", "").partition(" ")
        return credential.strip() or None if found.lower() == scheme else None

    @property
    def idempotency_key(self) -> str | None:
        """The key, with or without the quotes of a structured field; the operation checks its grammar."""
        key = self._fields.get("idempotency-key")
        return key[1:-1] if key is not None and len(key) > 2 and key[0] == key[-1] == '"' else key


def _ambiguous(reason: str, remedy: str) -> Refused:
    return Refused(reason, code="payload_unreadable", remedy=remedy)
