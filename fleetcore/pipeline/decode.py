"""Decode: payload bytes to readings, by the codec that matches the content type or the bytes (wire.md §3)."""

import logging
from collections.abc import Sequence

from fleetcore.interfaces.boundary import contained, in_a_line
from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.model.message import Rejected
from fleetcore.model.names import is_message_id
from fleetcore.pipeline.message import Envelope, Message
from fleetcore.pipeline.receive import Delivery
from fleetcore.wire.headers import media_type

_log = logging.getLogger(__name__)

_JSON = "application/json"
_CBOR = "application/cbor"
#: A JSON array whose first object has ``bn`` or ``n``, and a CBOR array of integer-keyed maps, are SenML (wire.md §3).
_PACKS = {_JSON: "application/senml+json", _CBOR: "application/senml+cbor"}


class Codecs:
    """Chooses a codec: the declared content type first, then the bytes (wire.md §3)."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self._codecs = tuple(codecs)
        self._by_type = {media: codec for codec in codecs for media in codec.media_types}

    def decode(self, payload: bytes, content_type: str | None, received_ms: int) -> Decoded | Rejected:
        """The readings of a message in any format."""
        if content_type is not None:
            codec = self._by_type.get(content_type)
            if codec is None:
                known = ", ".join(sorted(self._by_type))
                reason = f"No codec reads {content_type[:100]!r}; supported are {known}"
                return Rejected(code="media_type_unsupported", reason=reason)
            return _read(self._pack_codec(payload, content_type) or codec, payload, received_ms)
        for codec in self._codecs:
            if _claims(codec, payload):
                return _read(codec, payload, received_ms)
        return Rejected(code="payload_unreadable", reason="The format of the payload is unknown")

    def _pack_codec(self, payload: bytes, content_type: str) -> Codec | None:
        """The SenML codec if ``payload`` is a pack that was declared only as JSON or CBOR."""
        codec = self._by_type.get(_PACKS.get(content_type, ""))
        if codec is None or (payload[:1] >= b"\x80") != (content_type == _CBOR) or not _claims(codec, payload):
            return None
        return codec


def _read(codec: Codec, payload: bytes, received_ms: int) -> Decoded | Rejected:
    """The readings of a codec; a codec that raises or returns nonsense affects only this message."""
    try:
        found: object = codec.decode(payload, received_ms)
    except BaseException as error:
        failed = in_a_line(contained(error, "it"))
    else:
        if isinstance(found, Decoded | Rejected):
            return found
        failed = f"it gave {type(found).__name__}"
    _log.error("The codec %s failed on a message of %d bytes: %s", type(codec).__name__, len(payload), failed)
    return Rejected(code="plugin_failed", reason="The codec of this format failed")


def _claims(codec: Codec, payload: bytes) -> bool:
    try:
        return codec.claims(payload)
    except BaseException as error:
        failed = in_a_line(contained(error, "it"))
        _log.error("The codec %s failed to recognise a message: %s", type(codec).__name__, failed)
        return False


def decode(codecs: Codecs, message: Message) -> Decoded | None:
    """The readings of a message and its id; None if the message already has its answer."""
    payload, received = message.delivery[1].payload, message.delivery[3]
    decoded = codecs.decode(payload, _content_type(message.delivery), received)
    if isinstance(decoded, Rejected):
        message.answer = decoded
        return None
    message.id = message.id or decoded.id or message.delivery[1].receipt
    for index, metric, code, *reason in decoded.refused:
        message.refuse(index, metric, code, *reason)
    if message.id is not None and not is_message_id(message.id):
        message.answer = Rejected(
            code="schema_invalid", reason="A message id must have 1-64 visible characters", pointer="/id"
        )
        return None
    for reading in decoded.readings:
        if reading.id is not None and reading.index not in message.envelopes:
            message.envelopes[reading.index] = Envelope(reading.id, reading.index)
    if not decoded.readings and not message.refused:
        message.answer = Rejected(code="schema_invalid", reason="The message has no readings")
        return None
    return decoded


def _content_type(delivery: Delivery) -> str | None:
    """The declared media type without parameters, lower case."""
    declared = delivery[1].content_type
    return None if not declared else media_type(declared)
