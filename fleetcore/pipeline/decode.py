"""Decode: payload bytes to columns, for a whole batch.

The commonest message, one time and numbers by metric, takes the quick way: one dictionary from the codec, two C-level
``extend`` calls, no object per reading. Everything else goes reading by reading. Both fill the same :class:`Columns`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fleetcore.interfaces.codec import Codec, Decoded
from fleetcore.model.message import PointRefusal, Rejected
from fleetcore.model.telemetry import NO_SEQ, Quality, TelemetryBatch, TextReading
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceState
from fleetcore.wire.readings import FlatMessage, decode_quick

_JSON = "application/json"


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
            return codec.decode(payload, received_ms)
        for codec in self._codecs:
            if codec.claims(payload):
                return codec.decode(payload, received_ms)
        return Rejected(code="payload_unreadable", reason="The payload is in no known format")


class Message:
    """A message on its way through a batch: where its points are, and what was refused of it."""

    __slots__ = ("count", "delivery", "id", "owner", "refused", "state")

    def __init__(self, delivery: Delivery, state: DeviceState) -> None:
        self.delivery, self.state = delivery, state
        self.owner = state.device.id
        self.id: str | None = delivery[1].id
        self.count = 0
        self.refused: list[PointRefusal] | None = None

    def refuse(self, index: int, metric: str, code: str) -> None:
        """Notes a reading that is not taken."""
        if self.refused is None:
            self.refused = []
        self.refused.append(PointRefusal(index, metric, code))


class Columns:
    """The growing columns of a batch.

    Points that share a time form a group, so that what they share is kept once and spread by ``numpy.repeat``.
    """

    __slots__ = ("_counts", "_messages", "_quality", "_received", "_seq", "_series", "_times", "_values")

    def __init__(self) -> None:
        self._series: list[int] = []
        self._values: list[float | bool | str] = []
        self._times: list[int] = []
        self._quality: list[int] = []
        self._received: list[int] = []
        self._seq: list[int] = []
        self._counts: list[int] = []
        self._messages: list[int] = []

    def __len__(self) -> int:
        return len(self._series)

    def add_group(
        self, message: int, state: DeviceState, values: Mapping[str, float], time: int, received: int, quality: int
    ) -> bool:
        """Values of one time; False, and nothing added, where a metric is not interned."""
        size = len(self._series)
        try:
            self._series.extend(map(state.index_of, values))
        except KeyError:
            del self._series[size:]
            return False
        self._values.extend(values.values())
        self._times.append(time)
        self._quality.append(quality)
        self._received.append(received)
        self._seq.append(NO_SEQ)
        self._counts.append(len(values))
        self._messages.append(message)
        return True

    def add(
        self, message: int, series: int, value: float | bool | str, time: int, received: int, quality: int, seq: int
    ) -> None:
        """One reading."""
        self._series.append(series)
        self._values.append(value)
        self._times.append(time)
        self._quality.append(quality)
        self._received.append(received)
        self._seq.append(seq)
        self._counts.append(1)
        self._messages.append(message)

    def finish(self) -> tuple[TelemetryBatch, tuple[TextReading, ...], "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
        """The batch of numbers, the texts, and for each number the position of its message."""
        counts = np.array(self._counts, np.int64)
        texts: tuple[TextReading, ...] = ()
        values = self._values
        numeric: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
        if str in set(map(type, values)):
            numeric = np.fromiter((type(value) is not str for value in values), np.bool_, len(values))
            values = [0.0 if isinstance(value, str) else value for value in values]
        batch = TelemetryBatch(
            np.array(self._series, np.int64),
            np.repeat(np.array(self._times, np.int64), counts),
            np.repeat(np.array(self._received, np.int64), counts),
            # Adding 0.0 turns -0.0 into 0.0, so that the two are one value everywhere.
            np.array(values, np.float64) + 0.0,
            np.repeat(np.array(self._quality, np.uint8), counts),
            np.repeat(np.array(self._seq, np.int64), counts),
        )
        owner = np.repeat(np.array(self._messages, np.int64), counts)
        if numeric is not None:
            texts = tuple(
                TextReading(
                    int(batch.series[i]),
                    int(batch.time[i]),
                    int(batch.received[i]),
                    str(self._values[i]),
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
