"""A message with readings, as the steps of the data path pass it on."""

from collections.abc import Iterable

from fleetcore.model.message import Accepted, Outcome, PointRefusal
from fleetcore.model.store import MessageMark
from fleetcore.pipeline.reasons import of_code
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceState


def answer_of(mark: MessageMark) -> Accepted:
    """The first answer to a message that was received before."""
    stored, refused = mark.answer.get("stored"), mark.answer.get("refused", [])
    assert isinstance(stored, int)
    assert isinstance(refused, list)
    return Accepted(stored=stored, refused=tuple(PointRefusal(*point) for point in refused))


class Envelope:
    """One of several envelopes of a message, with its own id (wire.md §3).

    Attributes:
        id: the envelope's id.
        index: its place in the message.
        mark: the stored mark of an earlier envelope with this id, or None.
        again: the message contains it a second time, and the first was stored: it is checked and not stored.
        stored, refused: the outcome of its readings now.
    """

    __slots__ = ("again", "id", "index", "mark", "refused", "stored")

    def __init__(self, id: str, index: int) -> None:
        self.id, self.index, self.again = id, index, False
        self.mark: MessageMark | None = None
        self.stored = 0
        self.refused: list[PointRefusal] = []


class Message:
    """A message with readings in a batch: its subject and its refused readings.

    Attributes:
        state, owner: the device that it is about, and that device's id.
        count: its readings in the columns.
        refused: the refused readings, or None.
        others: the leaves that single readings are about, by id.
        envelopes: those with an id, by position.
        duplicates: its readings that an earlier message already brought.
        answer: the outcome, once known.
        repeated: the answer is that of an earlier message with the same id.
    """

    __slots__ = (
        "answer", "count", "delivery", "duplicates", "envelopes", "id", "others", "owner", "refused", "repeated",
        "state",
    )  # fmt: skip

    def __init__(self, delivery: Delivery, state: DeviceState) -> None:
        self.delivery, self.state = delivery, state
        self.owner = state.device.id
        self.id: str | None = delivery[1].id
        self.count = 0
        self.refused: list[PointRefusal] | None = None
        self.answer: Outcome | None = None
        self.repeated = False
        self.duplicates = 0
        self.envelopes: dict[int, Envelope] = {}
        self.others: dict[str, DeviceState] = {}

    @property
    def ids(self) -> set[str]:
        """The message's id and those of its envelopes."""
        own = set() if self.id is None else {self.id}
        return own | {envelope.id for envelope in self.envelopes.values()}

    def about(self, subject: str | None) -> DeviceState | None:
        """The device that a reading is about; None if the sender may not send about it."""
        return self.state if subject is None or subject == self.owner else self.others.get(subject)

    def refuse(self, index: int, metric: str, code: str, reason: str = "") -> None:
        """Notes a refused reading; the default reason is that of its code."""
        reason = reason or of_code(code)
        if self.refused is None:
            self.refused = []
        self.refused.append(PointRefusal(index, metric, code, reason))
        if index in self.envelopes:
            self.envelopes[index].refused.append(PointRefusal(0, metric, code, reason))

    def repeat(self, envelope: Envelope, stored: int, refused: Iterable[PointRefusal]) -> None:
        """Takes over the outcome of an earlier envelope with the same id."""
        self.count += stored
        self.duplicates += stored
        for point in tuple(refused):
            self.refuse(envelope.index, point.metric, point.code, point.reason)
