"""Dead letters: refused messages, kept in a ring of fixed size so that they can be listed, understood and replayed."""

import base64
import contextlib
from collections import deque

from fleetcore.errors import NotFound, VersionConflict
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.dead_letter import DeadLetter
from fleetcore.model.message import Inbound, Rejected
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.wire.records import from_plain, to_plain

_KIND = "dead_letter"
#: How many are kept; the oldest makes room.
RING = 1000
#: A longer payload is cut: a dead letter is for understanding, and cut ones cannot be replayed.
_PAYLOAD_BYTES = 4096


def _key(number: int) -> str:
    return f"{number % RING:04d}"


class DeadLetters:
    """The ring. Adding is in memory; :meth:`flush` writes what is new."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self._new: deque[DeadLetter] = deque(maxlen=RING)
        self._next = 0

    async def load(self) -> None:
        """Finds where the ring stands."""
        letters = await self.list()
        self._next = letters[-1].number + 1 if letters else 0

    def add(self, identity: str, message: Inbound, outcome: Rejected) -> None:
        """Keeps a refused message."""
        payload = message.payload[:_PAYLOAD_BYTES]
        self._new.append(
            DeadLetter(
                number=self._next,
                device=message.subject,
                identity=identity,
                operation=message.type.name,
                code=outcome.code,
                reason=outcome.reason,
                time=self._clock.now_ms(),
                payload=base64.b64encode(payload).decode(),
                whole=len(payload) == len(message.payload),
                content_type=message.content_type,
                id=message.id,
                target=message.target,
                if_version=message.if_version,
            )
        )
        self._next += 1

    async def flush(self) -> None:
        """Writes what was added since."""
        if self._new:
            new = list(self._new)
            self._new.clear()
            await self._storage.commit(
                Commit(puts=tuple(Put(kind=_KIND, key=_key(one.number), body=to_plain(one)) for one in new))
            )

    async def get(self, number: int) -> DeadLetter:
        """One letter; raises NotFound where it is not kept any more."""
        await self.flush()
        record = await self._storage.get(_KIND, _key(number))
        letter = None if record is None else from_plain(_KIND, record.body, DeadLetter)
        if letter is None or letter.number != number:
            raise NotFound(f"There is no dead letter {number}", remedy=f"The newest {RING} are kept")
        return letter

    async def remove(self, letter: DeadLetter, event: Event) -> None:
        """Removes a letter, with the event that says who did; one whose place a newer letter took is gone already."""
        record = await self._storage.get(_KIND, _key(letter.number))
        if record is None or record.body.get("number") != letter.number:
            return
        with contextlib.suppress(VersionConflict):  # a newer letter took its place just now
            delete = Delete(kind=_KIND, key=_key(letter.number), expect=record.version)
            await self._storage.commit(Commit(deletes=(delete,), events=(event,)))

    async def list(self) -> "list[DeadLetter]":
        """What is kept, oldest first."""
        await self.flush()
        page = await self._storage.find(_KIND, limit=RING)
        return sorted((from_plain(_KIND, record.body, DeadLetter) for record in page.items), key=lambda one: one.number)
