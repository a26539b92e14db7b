"""Replay of dead letters: a refused message goes through the data path once more, in its sender's name.

What it was refused for may be gone: a clock that was ahead, a codec that was missing, a limit that was too low. Where
it is refused again, what was found now stands as a new dead letter in place of the old one.
"""

import base64

from fleetcore.errors import Refused
from fleetcore.model.credential import LocalCredential
from fleetcore.model.dead_letter import DeadLetter
from fleetcore.model.message import Direction, Inbound, Outcome, is_permanent
from fleetcore.model.store import Event
from fleetcore.runtime.app import Fleet
from fleetcore.wire import messages

#: Refused for the moment at which it came: only another moment can change that.
_TOO_EARLY = "time_in_future"


async def replay(fleet: Fleet, letter: DeadLetter, *, actor: str, reason: str) -> Outcome:
    """Submits a dead letter again, as of when it came, so that readings without a time keep theirs.

    It is removed once it has an outcome for good. Raises Refused where its payload was cut, NotAuthorised where its
    sender may not speak.
    """
    if not letter.whole:
        raise Refused(
            f"Dead letter {letter.number} was longer than what is kept of it",
            remedy="It can be shown and discarded only; the device must send it again",
        )
    session = await fleet.plane.authenticate(LocalCredential(letter.identity), protocol="library")
    seen = fleet.device_sessions.last_seen
    before = {device: seen.get(device) for device in (letter.identity, letter.device)}
    try:
        came = fleet.clock.now_ms() if letter.code == _TOO_EARLY else letter.time
        outcome = await fleet.ingest.submit(session, _message(letter), received_ms=came)
    finally:
        session.close()
        # An old message does not show that the device lives today.
        for device, last in before.items():
            if last is None:
                seen.pop(device, None)
            else:
                seen[device] = max(last, seen.get(device, 0))
    if is_permanent(outcome):
        await fleet.dead_letters.remove(letter, _event(fleet, letter, "replayed", actor, reason))
    return outcome


async def discard(fleet: Fleet, letter: DeadLetter, *, actor: str, reason: str) -> None:
    """Removes a dead letter for good."""
    await fleet.dead_letters.remove(letter, _event(fleet, letter, "discarded", actor, reason))


def _message(letter: DeadLetter) -> Inbound:
    """The message as it came; raises Refused where no type of this release is called so."""
    row = messages.NAMED.get(letter.operation)
    if row is None or row.direction is not Direction.UP:
        raise Refused(
            f"Dead letter {letter.number} is not a message that can be replayed",
            remedy="It can be shown and discarded only",
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
