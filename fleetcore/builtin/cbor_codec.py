"""CBOR readings: the JSON forms in ``application/cbor``, and undeclared arrays and maps that are not SenML."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore.builtin.forms import read_forms
from fleetcore.builtin.senml import looks_like_senml_cbor
from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.interfaces.provider import Context
from fleetcore.model.message import Rejected
from fleetcore.wire.bodies import unreadable
from fleetcore.wire.strict_cbor import SELF_DESCRIBED, StrictCborError, loads


@frozen(kw_only=True)
class CborConfig:
    """``[codecs.cbor]`` has no keys; its bounds are those of ``[limits]``."""


class CborCodec(Codec):
    """Reads the forms of wire.md §3, written in CBOR (RFC 8949)."""

    def __init__(self, depth: int = 10) -> None:
        self._depth = depth

    @property
    def media_types(self) -> Sequence[str]:
        return ("application/cbor",)

    def claims(self, payload: bytes) -> bool:
        # 0x80-0xBF are the heads of arrays and maps (RFC 8949 §3.1).
        starts = b"\x80" <= payload[:1] <= b"\xbf" or payload.startswith(SELF_DESCRIBED)
        return starts and not looks_like_senml_cbor(payload)

    def decode(self, payload: bytes, received_ms: int) -> Decoded | Rejected:
        del received_ms  # the pipeline resolves ages
        try:
            document = loads(payload, depth=self._depth)
        except StrictCborError as error:
            return unreadable(error)
        return read_forms(document)


@asynccontextmanager
async def open_cbor(config: CborConfig, context: Context) -> AsyncIterator[CborCodec]:
    """Opens the codec with the fleet's limits."""
    del config
    yield CborCodec(context.limits.json_depth)
