"""JSON readings: ``application/json``, and whatever undeclared payload starts like JSON and is not SenML."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore.builtin.forms import read_forms
from fleetcore.builtin.senml import looks_like_senml_json
from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.interfaces.provider import Context
from fleetcore.model.message import Rejected
from fleetcore.wire.bodies import unreadable
from fleetcore.wire.strict_json import StrictJsonError, loads

#: ``{``, ``[`` and JSON's white space (RFC 8259 §2).
_STARTS = frozenset(b"{[ \t\r\n")


@frozen(kw_only=True)
class JsonConfig:
    """``[codecs.json]`` has no keys; its bounds are those of ``[limits]``."""


class JsonCodec(Codec):
    """Reads the forms of wire.md §3. The most common one takes a fast path: ``fleetcore.wire.readings``."""

    def __init__(self, depth: int = 10) -> None:
        self._depth = depth

    @property
    def media_types(self) -> Sequence[str]:
        return ("application/json",)

    def claims(self, payload: bytes) -> bool:
        return payload[:1] != b"" and payload[0] in _STARTS and not looks_like_senml_json(payload)

    def decode(self, payload: bytes, received_ms: int) -> Decoded | Rejected:
        del received_ms  # the pipeline resolves ages
        try:
            document = loads(payload, depth=self._depth)
        except StrictJsonError as error:
            return unreadable(error)
        return read_forms(document)


@asynccontextmanager
async def open_json(config: JsonConfig, context: Context) -> AsyncIterator[JsonCodec]:
    """Opens the codec with the fleet's limits."""
    del config
    yield JsonCodec(context.limits.json_depth)
