"""SenML readings in both representations: ``application/senml+json`` and ``application/senml+cbor``."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore.builtin.senml import looks_like_senml_cbor, looks_like_senml_json, resolve, with_text_labels
from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.interfaces.provider import Context
from fleetcore.model.message import Rejected
from fleetcore.wire import strict_cbor, strict_json
from fleetcore.wire.bodies import unreadable


@frozen(kw_only=True)
class SenmlConfig:
    """``[codecs.senml]`` has no keys; its bounds are those of ``[limits]``."""


class SenmlCodec(Codec):
    """Reads packs of either representation; the bytes tell them apart, whatever was declared."""

    def __init__(self, fleet: str, depth: int = 10) -> None:
        self._fleet = fleet
        self._depth = depth

    @property
    def media_types(self) -> Sequence[str]:
        return ("application/senml+json", "application/senml+cbor")

    def claims(self, payload: bytes) -> bool:
        return looks_like_senml_cbor(payload) or looks_like_senml_json(payload)

    def decode(self, payload: bytes, received_ms: int) -> Decoded | Rejected:
        # JSON text starts below 0x80 in every case (RFC 8259 §2), CBOR arrays and tags never do (RFC 8949 §3.1).
        is_cbor = payload[:1] >= b"\x80"
        try:
            if is_cbor:
                pack = with_text_labels(strict_cbor.loads(payload, depth=self._depth))
            else:
                pack = strict_json.loads(payload, depth=self._depth)
        except strict_json.StrictJsonError as error:
            return unreadable(error)
        return resolve(pack, received_ms, self._fleet)


@asynccontextmanager
async def open_senml(config: SenmlConfig, context: Context) -> AsyncIterator[SenmlCodec]:
    """Opens the codec; the fleet's name recognises its device URNs."""
    del config
    yield SenmlCodec(context.fleet, context.limits.json_depth)
