"""Replay of dead letters: a refused message goes through the data path again, under its sender's name.

The cause may be gone: a clock that was ahead, a missing codec, a limit that was too low. If it is refused again, a new
dead letter with the new reason replaces the old one.
"""

import base64

from fleetcore.errors import Refused
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import LocalCredential
from fleetcore.model.dead_letter import DeadLetter
from fleetcore.model.message import Direction, Inbound, Outcome, is_permanent
from fleetcore.model.store import Event
from fleetcore.pipeline.session import OWNER
from fleetcore.runtime.app import Fleet
from fleetcore.wire import messages

#: The code of messages that came too early; these are replayed with the current time.
_TOO_EARLY = "time_in_future"


async def replay(fleet: Fleet, letter: DeadLetter, *, actor: str, reason: str) -> Outcome:
    """Submits a dead letter again with its original time of receipt, so that readings without a time keep theirs.

    It is removed once it has a final outcome. Raises Refused if its payload was cut, NotAuthorised if its sender may
    not send.
    """
    if not letter.whole:
        raise Refused(
            f"The payload of dead letter {letter.number} was cut",
            remedy="It can only be shown and discarded; the device must send it again",
        )
    came = fleet.clock.now_ms() if letter.code == _TOO_EARLY else letter.time
    session = await fleet.plane.authenticate(LocalCredential(letter.identity), protocol=OWNER)
    try:
        outcome = await resubmit(fleet, session, _message(letter), received_ms=came)
    finally:
        session.close()
    if is_permanent(outcome):
        await fleet.dead_letters.remove(letter, _event(fleet, letter, "replayed", actor, reason))
    return outcome


async def resubmit(fleet: Fleet, session: Session, message: Inbound, *, received_ms: int) -> Outcome:
    """Submits a message that arrived earlier; times that it does not give follow from then.

    It does not make the device seen now.
    """
    seen = fleet.device_sessions.last_seen
    before = {device: seen.get(device) for device in (session.identity, message.subject)}
    try:
        return await fleet.ingest.submit(session, message, received_ms=received_ms)
    finally:
        # An old message does not show that the device is alive today.
        for device, last in before.items():
            if last is None:
                seen.pop(device, None)
            else:
                seen[device] = max(last, seen.get(device, 0))


async def discard(fleet: Fleet, letter: DeadLetter, *, actor: str, reason: str) -> None:
    """Deletes a dead letter."""
    await fleet.dead_letters.remove(letter, _event(fleet, letter, "discarded", actor, reason))


def _message(letter: DeadLetter) -> Inbound:
    """The original message; raises Refused if this release has no such type."""
    row = messages.NAMED.get(letter.operation)
    if row is None or row.direction is not Direction.UP:
        raise Refused(
            f"Dead letter {letter.number} is not a message that can be replayed",
            remedy="It can only be shown and discarded",
        )
    return Inbound(
        type=row,
        subject=letter.device,
        payload=base64.b64decode(letter.payload),
        content_type=letter.content_type,
        id=letter.id,
        target=letter.target,
        if_version=letter.if_version,
    )


def _event(fleet: Fleet, letter: DeadLetter, verb: str, actor: str, reason: str) -> Event:
    return Event(
        type=f"dead_letter.{verb}",
        subject=letter.device,
        time=fleet.clock.now_ms(),
        actor=actor,
        reason=reason,
        data={"number": letter.number, "code": letter.code},
    )
