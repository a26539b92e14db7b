"""Decode: payload bytes to columns, for a whole batch.

The commonest message, one time and numbers by metric, takes the quick way: one dictionary from the codec, two C-level
``extend`` calls, no object per reading. Everything else goes reading by reading. Both fill the same :class:`Columns`.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.model.message import PointRefusal, Rejected
from fleetcore.model.telemetry import NO_SEQ, Int64, Quality, TelemetryBatch, TextReading
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceState
from fleetcore.wire.readings import FlatMessage, decode_quick

_log = logging.getLogger(__name__)

_JSON = "application/json"
_CBOR = "application/cbor"
#: A JSON array whose first object has ``bn`` or ``n``, and a CBOR array of integer-keyed maps, are SenML (WIRE.md §3).
_PACKS = {_JSON: "application/senml+json", _CBOR: "application/senml+cbor"}


class Codecs:
    """Chooses a codec: the declared content type first, then the bytes (WIRE.md §3)."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self._codecs = tuple(codecs)
        self._by_type = {media: codec for codec in codecs for media in codec.media_types}

    def quick(self, payload: bytes, content_type: str | None) -> FlatMessage | None:
        """Time and values of the simplest JSON form, or None: then :meth:`decode` it."""
        if content_type is not None and content_type != _JSON:
            return None
        return decode_quick(payload)

    def decode(self, payload: bytes, content_type: str | None, received_ms: int) -> Decoded | Rejected:
        """The readings of a message in whatever form."""
        if content_type is not None:
            codec = self._by_type.get(content_type)
            if codec is None:
                return Rejected(code="media_type_unsupported", reason=f"No codec reads {content_type[:100]!r}")
            return _read(self._pack_codec(payload, content_type) or codec, payload, received_ms)
        for codec in self._codecs:
            if _claims(codec, payload):
                return _read(codec, payload, received_ms)
        return Rejected(code="payload_unreadable", reason="The payload is in no known format")

    def _pack_codec(self, payload: bytes, content_type: str) -> Codec | None:
        """The codec of SenML where ``payload`` is a pack that is declared as what every pack is too, JSON or CBOR."""
        codec = self._by_type.get(_PACKS.get(content_type, ""))
        if codec is None or (payload[:1] >= b"\x80") != (content_type == _CBOR) or not _claims(codec, payload):
            return None
        return codec


def _read(codec: Codec, payload: bytes, received_ms: int) -> Decoded | Rejected:
    """What a codec reads; one that raises or answers rubbish costs this message alone."""
    try:
        found: object = codec.decode(payload, received_ms)
    except (Exception, SystemExit) as error:
        failed = in_a_line(error)
    else:
        if isinstance(found, Decoded | Rejected):
            return found
        failed = f"it gave {type(found).__name__}"
    _log.error("The codec %s failed on a message of %d bytes: %s", type(codec).__name__, len(payload), failed)
    return Rejected(code="plugin_failed", reason="The codec of this format failed")


def _claims(codec: Codec, payload: bytes) -> bool:
    try:
        return codec.claims(payload)
    except (Exception, SystemExit) as error:
        _log.error("The codec %s failed on a look at a message: %s", type(codec).__name__, in_a_line(error))
        return False


class Message:
    """A message on its way through a batch: where its points are, and what was refused of it."""

    __slots__ = ("count", "delivery", "id", "others", "owner", "refused", "state")

    def __init__(self, delivery: Delivery, state: DeviceState) -> None:
        self.delivery, self.state = delivery, state
        self.owner = state.device.id
        self.id: str | None = delivery[1].id
        self.count = 0
        self.refused: list[PointRefusal] | None = None
        self.others: dict[str, DeviceState] = {}

    def about(self, subject: str | None) -> DeviceState | None:
        """Whom a reading is about; None where the sender may not speak for it."""
        return self.state if subject is None or subject == self.owner else self.others.get(subject)

    def refuse(self, index: int, metric: str, code: str) -> None:
        """Notes a reading that is not taken."""
        if self.refused is None:
            self.refused = []
        self.refused.append(PointRefusal(index, metric, code))


class Columns:
    """The growing columns of a batch.

    Points that share a time form a group, so that what they share is kept once and spread by ``numpy.repeat``.

    Attributes:
        series, values: a member per point.
        times, received, quality, counts: a member per group.
    """

    __slots__ = ("_owners", "_seqs", "counts", "quality", "received", "series", "times", "values")

    def __init__(self) -> None:
        self.series: list[int] = []
        self.values: list[float | bool | str] = []
        self.times: list[int] = []
        self.quality: list[int] = []
        self.received: list[int] = []
        self.counts: list[int] = []
        # What few groups have: the message they belong to, by group; a sequence number, by point.
        self._owners: list[tuple[int, int]] = []
        self._seqs: list[tuple[int, int]] = []

    def add_group(
        self, message: int, state: DeviceState, values: Mapping[str, float], time: int, received: int, quality: int
    ) -> bool:
        """Values of one time; False, and nothing added, where a metric is not interned."""
        size = len(self.series)
        try:
            self.series.extend(map(state.index_of, values))
        except KeyError:
            del self.series[size:]
            return False
        self.values.extend(values.values())
        self._group(message, len(values), time, received, quality)
        return True

    def add(
        self, message: int, series: int, value: float | bool | str, time: int, received: int, quality: int, seq: int
    ) -> None:
        """One reading."""
        if seq != NO_SEQ:
            self._seqs.append((len(self.series), seq))
        self.series.append(series)
        self.values.append(value)
        self._group(message, 1, time, received, quality)

    def _group(self, message: int, count: int, time: int, received: int, quality: int) -> None:
        self._owners.append((len(self.counts), message))
        self.times.append(time)
        self.quality.append(quality)
        self.received.append(received)
        self.counts.append(count)

    def finish(self) -> tuple[TelemetryBatch, tuple[TextReading, ...], Int64]:
        """The batch of numbers, the texts, and for each number its message: -1 for those of the quick lane."""
        counts = np.array(self.counts, np.int64)
        texts: tuple[TextReading, ...] = ()
        values = self.values
        numeric: npt.NDArray[np.bool_] | None = None
        if self._owners and str in set(map(type, values)):
            numeric = np.fromiter((type(value) is not str for value in values), np.bool_, len(values))
            values = [0.0 if isinstance(value, str) else value for value in values]
        seq = np.full(len(values), NO_SEQ, np.int64)
        for position, given in self._seqs:
            seq[position] = given
        batch = TelemetryBatch(
            np.array(self.series, np.int64),
            np.repeat(np.array(self.times, np.int64), counts),
            np.repeat(np.array(self.received, np.int64), counts),
            # Adding 0.0 turns -0.0 into 0.0, so that the two are one value everywhere.
            np.array(values, np.float64) + 0.0,
            np.repeat(np.array(self.quality, np.uint8), counts),
            seq,
        )
        owners = np.full(len(counts), -1, np.int64)
        for group, message in self._owners:
            owners[group] = message
        owner = np.repeat(owners, counts)
        if numeric is not None:
            texts = tuple(
                TextReading(
                    int(batch.series[i]),
                    int(batch.time[i]),
                    int(batch.received[i]),
                    str(self.values[i]),
                    int(batch.quality[i]),
                    int(batch.seq[i]),
                )
                for i in np.flatnonzero(~numeric)
            )
            batch, owner = batch.take(numeric), owner[numeric]
        return batch, texts, owner


def content_type_of(delivery: Delivery) -> str | None:
    """The declared media type without parameters, lower case."""
    declared = delivery[1].content_type
    return None if not declared else declared.partition(";")[0].strip().lower()


def server_time(quality: int) -> int:
    """The quality of a reading whose time the server assigns."""
    return quality | Quality.SERVER_TIME
