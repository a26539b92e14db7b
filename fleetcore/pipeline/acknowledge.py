"""Acknowledge: after the commit each message gets its outcome, and the outcomes are counted."""

import logging
from collections.abc import Iterable

from fleetcore.interfaces.boundary import contained
from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted, Outcome, PointRefusal, Rejected, accepted
from fleetcore.model.store import MessageMark
from fleetcore.pipeline.message import Message
from fleetcore.pipeline.reasons import rejected
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.refusals import Refusals

_log = logging.getLogger(__name__)


class Acknowledge:
    """The step.

    Attributes:
        accepted: messages accepted since the start; refused ones are in ``refusals``.
    """

    def __init__(self, refusals: Refusals) -> None:
        self.refusals = refusals
        self.accepted = 0

    def answer(self, delivery: Delivery, outcome: Outcome) -> None:
        """Sends the outcome to one sender."""
        if isinstance(outcome, Rejected):
            self.refusals.add(delivery[0], delivery[1], outcome)
        else:
            self.accepted += 1
        _tell(delivery, outcome)

    def stored(self, deliveries: Iterable[Delivery], counts: Iterable[int]) -> None:
        """Tells the senders of messages that were stored completely; ``counts`` are their readings."""
        for delivery, count in zip(deliveries, counts, strict=False):
            self.accepted += 1
            _tell(delivery, accepted(count))


def _tell(delivery: Delivery, outcome: Outcome) -> None:
    try:
        delivery[2](outcome)
    except BaseException as error:
        _log.error("An adapter failed to handle an outcome", exc_info=contained(error, "it"))


def outcome_of(message: Message, limits: Limits) -> Outcome:
    """The outcome of a message whose readings are in the batch: all of them, some, or none."""
    if not message.refused:
        return accepted(message.count)
    refused = tuple(sorted(message.refused, key=lambda point: point.index))
    if message.count:
        return Accepted(stored=message.count, refused=refused)
    return rejected(refused, limits)


def marks_of(message: Message, outcome: Accepted, now_ms: int) -> list[MessageMark]:
    """The marks of a message with an id, and of each such envelope in it: a repeat gets the same answer."""
    own = [] if message.id is None else [_mark(message, message.id, outcome.stored, outcome.refused, now_ms)]
    return own + [
        _mark(message, envelope.id, envelope.stored, envelope.refused, now_ms)
        for envelope in message.envelopes.values()
        if envelope.stored and not envelope.again and envelope.mark is None and envelope.id != message.id
    ]


def _mark(message: Message, id: str, stored: int, refused: Iterable[PointRefusal], now_ms: int) -> MessageMark:
    answer: dict[str, object] = {"stored": stored}
    if points := [[point.index, point.metric, point.code, point.reason] for point in refused]:
        answer["refused"] = points
    return MessageMark(device=message.owner, id=id, time=now_ms, answer=answer)
