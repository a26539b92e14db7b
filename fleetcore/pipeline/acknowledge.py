"""Acknowledge: each message gets its outcome, after the commit, and what became of it is counted."""

import logging
from collections.abc import Iterable

from attrs import evolve

from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted, Outcome, PointRefusal, Rejected, accepted
from fleetcore.model.store import MessageMark
from fleetcore.pipeline.message import Message
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.refusals import Refusals

_log = logging.getLogger(__name__)


class Acknowledge:
    """The step.

    Attributes:
        accepted: messages since the start; the refused ones are in ``refusals``.
    """

    def __init__(self, refusals: Refusals) -> None:
        self.refusals = refusals
        self.accepted = 0

    def answer(self, delivery: Delivery, outcome: Outcome) -> None:
        """Tells one sender."""
        if isinstance(outcome, Rejected):
            self.refusals.add(delivery[0], delivery[1], outcome)
        else:
            self.accepted += 1
        _tell(delivery, outcome)

    def stored(self, deliveries: Iterable[Delivery], counts: Iterable[int]) -> None:
        """Tells the senders of messages of which everything is stored; ``counts`` are their readings."""
        for delivery, count in zip(deliveries, counts, strict=False):
            self.accepted += 1
            _tell(delivery, accepted(count))


def _tell(delivery: Delivery, outcome: Outcome) -> None:
    try:
        delivery[2](outcome)
    except Exception:
        _log.exception("An adapter failed to take an outcome")


def outcome_of(message: Message, limits: Limits) -> Outcome:
    """The outcome of a message whose readings are in the batch: all of them, some, or none."""
    if not message.refused:
        return accepted(message.count)
    refused = tuple(sorted(message.refused, key=lambda point: point.index))
    if message.count:
        return Accepted(stored=message.count, refused=refused)
    outcome = Rejected(code=refused[0].code, reason="No reading of the message could be taken", refused=refused)
    if outcome.code == "too_many_metrics":
        return evolve(outcome, limit=limits.metrics, unit="metrics", scope="device")
    return outcome


def mark_of(message: Message, outcome: Accepted, now_ms: int) -> MessageMark:
    """What is kept of a message with an id, so that a repeat gets the same answer."""
    assert message.id is not None
    answer: dict[str, object] = {"stored": outcome.stored}
    if outcome.refused:
        answer["refused"] = [[point.index, point.metric, point.code] for point in outcome.refused]
    return MessageMark(device=message.owner, id=message.id, time=now_ms, answer=answer)


def envelope_marks(message: Message, now_ms: int) -> list[MessageMark]:
    """What is kept of the envelopes of a message that have ids and were stored for the first time."""
    return [
        MessageMark(
            device=message.owner,
            id=envelope.id,
            time=now_ms,
            answer={"stored": envelope.stored, "refused": [list(point) for point in envelope.refused]},
        )
        for envelope in message.envelopes.values()
        if envelope.mark is None and not envelope.again and envelope.stored
    ]


def answer_of(mark: MessageMark) -> Accepted:
    """The first answer to a message that came before."""
    stored, refused = mark.answer.get("stored"), mark.answer.get("refused", [])
    assert isinstance(stored, int)
    assert isinstance(refused, list)
    return Accepted(stored=stored, refused=tuple(PointRefusal(*point) for point in refused))
