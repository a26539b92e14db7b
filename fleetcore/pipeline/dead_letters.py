"""Dead letters: a limited number of refused messages, kept so that operators can list, understand and replay them.

Each device has a share, so that a faulty device does not push out the refused messages of others.
"""

import base64
import contextlib
from collections import deque

from fleetcore.errors import NotFound, VersionConflict
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.dead_letter import DeadLetter
from fleetcore.model.message import Inbound, Rejected
from fleetcore.model.parts import parts
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.wire.records import from_plain, to_plain

_KIND = "dead_letter"
#: How many are kept, in all and per sender; the oldest of the same sender, or else of the sender with most, is dropped.
KEPT, SHARE = 1000, 100
#: A longer payload is cut: a dead letter explains a refusal, and cut ones cannot be replayed.
_PAYLOAD_BYTES = 4096
#: The same for other fields from the sender, and a reason that quotes them: an MQTT string has up to 64 KiB.
_MEMBER_LENGTH = 512


class DeadLetters:
    """The kept letters. Adding is in memory; :meth:`flush` writes new ones."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        #: The kept letters by sender, oldest first: number, and key of the record.
        self._kept: dict[str, deque[tuple[int, str]]] = {}
        self._new: dict[str, DeadLetter] = {}
        self._gone: set[str] = set()
        self._next = 0

    async def load(self) -> None:
        """Loads the kept letters."""
        for key, letter in await self._read():
            self._kept.setdefault(letter.identity, deque()).append((letter.number, key))
            self._next = letter.number + 1

    def add(self, identity: str, message: Inbound, outcome: Rejected) -> None:
        """Adds a refused message."""
        if len(self._kept.get(identity, ())) >= SHARE:
            self._make_room(identity)
        elif sum(map(len, self._kept.values())) >= KEPT:
            self._make_room(max(self._kept, key=lambda sender: len(self._kept[sender])))
        payload = message.payload[:_PAYLOAD_BYTES]
        own = message.content_type, message.id, message.target
        content_type, message_id, target = (None if text is None else text[:_MEMBER_LENGTH] for text in own)
        number, self._next = self._next, self._next + 1
        key = f"{number:012d}"
        self._kept.setdefault(identity, deque()).append((number, key))
        self._new[key] = DeadLetter(
            number=number,
            device=message.subject,
            identity=identity,
            operation=message.type.name,
            code=outcome.code,
            reason=outcome.reason[:_MEMBER_LENGTH],
            time=self._clock.now_ms(),
            payload=base64.b64encode(payload).decode(),
            whole=payload == message.payload and (content_type, message_id, target) == own,
            content_type=content_type,
            id=message_id,
            target=target,
            if_version=message.if_version,
        )

    def _make_room(self, identity: str) -> None:
        number, key = self._kept[identity][0]
        self._taken_out(identity, number, key)
        if self._new.pop(key, None) is None:
            self._gone.add(key)

    async def flush(self) -> None:
        """Writes the changes since the last flush."""
        if self._new or self._gone:
            new, self._new = self._new, {}
            gone, self._gone = self._gone, set()
            try:
                await self._storage.commit(
                    Commit(
                        puts=tuple(Put(kind=_KIND, key=key, body=to_plain(letter)) for key, letter in new.items()),
                        deletes=tuple(Delete(kind=_KIND, key=key) for key in sorted(gone)),
                    )
                )
            except BaseException:
                # The next flush writes them; those dropped meanwhile are never written.
                self._gone |= gone
                kept = {key for letters in self._kept.values() for _, key in letters}
                self._new = {key: letter for key, letter in new.items() if key in kept} | self._new
                raise

    async def get(self, number: int) -> DeadLetter:
        """A letter by its number; raises NotFound if it is no longer kept."""
        await self.flush()
        key = self._key_of(number)
        record = None if key is None else await self._storage.get(_KIND, key)
        if record is None:
            raise NotFound(
                f"Dead letter {number} does not exist",
                remedy=f"The newest {KEPT} are kept, {SHARE} of a device; see fleetcore quarantine list",
            )
        return from_plain(_KIND, record.body, DeadLetter)

    def _key_of(self, number: int) -> str | None:
        return next((key for letters in self._kept.values() for each, key in letters if each == number), None)

    async def remove(self, letter: DeadLetter, event: Event) -> None:
        """Removes a letter, with the event that names the actor; does nothing if it was dropped already."""
        key = self._key_of(letter.number)
        record = None if key is None else await self._storage.get(_KIND, key)
        if key is None or record is None:
            return
        with contextlib.suppress(VersionConflict):  # it was removed just now
            delete = Delete(kind=_KIND, key=key, expect=record.version)
            await self._storage.commit(Commit(deletes=(delete,), events=(event,)))
        self._taken_out(letter.identity, letter.number, key)

    async def forget(self, device: str) -> None:
        """Removes the letters of an erased device, and those about it."""
        await self.flush()
        gone = [(key, letter) for key, letter in await self._read() if device in (letter.identity, letter.device)]
        if gone:
            await self._storage.commit(Commit(deletes=tuple(Delete(kind=_KIND, key=key) for key, _ in gone)))
        for key, letter in gone:
            self._taken_out(letter.identity, letter.number, key)

    def _taken_out(self, identity: str, number: int, key: str) -> None:
        letters = self._kept.get(identity)
        if letters is not None and (number, key) in letters:
            letters.remove((number, key))
            if not letters:
                del self._kept[identity]

    async def _read(self) -> list[tuple[str, DeadLetter]]:
        pages = parts(lambda after: self._storage.find(_KIND, after=after, limit=KEPT), lambda page: page.after)
        found = [
            (record.key, from_plain(_KIND, record.body, DeadLetter)) async for page in pages for record in page.items
        ]
        return sorted(found, key=lambda each: each[1].number)

    async def list(self) -> list[DeadLetter]:
        """The kept letters, oldest first."""
        await self.flush()
        return [letter for _, letter in await self._read()]
