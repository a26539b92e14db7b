"""Codec: decodes a payload format's bytes to readings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import frozen

from fleetcore.model.message import Rejected


@frozen
class DecodedReading:
    """One reading as it was sent, not yet checked against names, limits and times.

    Attributes:
        index: its index in the message's list of readings.
        time: as sent: int (ms), float or text, or None; the pipeline validates it.
        subject: the device that the format itself names (SenML), or None.
        id: the message id of its envelope, where a message holds several envelopes; else None.
    """

    index: int
    metric: str
    value: float | bool | str
    unit: str | None = None
    time: object = None
    age_ms: object = None
    seq: int | None = None
    subject: str | None = None
    id: str | None = None


@frozen
class Decoded:
    """A readable message: its readings, those that the format refuses, and the message id where it carries one.

    Attributes:
        refused: for each, the index, the metric, the code, and a sentence where the code does not say everything.
    """

    readings: Sequence[DecodedReading]
    id: str | None = None
    refused: Sequence[tuple[int, str, str] | tuple[int, str, str, str]] = ()


class Codec(ABC):
    """Decodes one payload format to readings.

    Stateless; called from the event loop, so it must be quick and must bound its own work: a payload is at most the
    message limit (256 KiB by default). Never raises for bad bytes.
    """

    @property
    @abstractmethod
    def media_types(self) -> Sequence[str]:
        """The content types it reads, in lower case, without parameters."""

    @abstractmethod
    def claims(self, payload: bytes) -> bool:
        """Whether an undeclared payload looks like this format; at most one first-party codec says so."""

    @abstractmethod
    def decode(self, payload: bytes, received_ms: int) -> Decoded | Rejected:
        """The readings; or :class:`Rejected` with ``payload_unreadable``, ``schema_invalid`` or ``limit_exceeded``."""
