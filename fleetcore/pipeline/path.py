"""The data path: admit → decode → validate → store → acknowledge, for a batch of messages.

Each step is a module of this package with its own test. The most common messages take the fast path; uplinks other
than readings go to the capability that registered for them. Nothing is acknowledged before its commit.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from itertools import groupby
from typing import Any

from fleetcore.errors import StorageError, Unavailable
from fleetcore.interfaces.boundary import contained
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.codec import Decoded
from fleetcore.interfaces.ingest import HeldMessage, Holder
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import Accepted, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.model.telemetry import Tally
from fleetcore.pipeline import fast_path
from fleetcore.pipeline.acknowledge import Acknowledge
from fleetcore.pipeline.admit import FOREIGN, Admit, Directory
from fleetcore.pipeline.columns import Columns
from fleetcore.pipeline.decode import Codecs, decode
from fleetcore.pipeline.handlers import INTERNAL, Handlers
from fleetcore.pipeline.message import Message
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.refusals import Refusals
from fleetcore.pipeline.session import DeviceSession, DeviceState
from fleetcore.pipeline.store import Store
from fleetcore.pipeline.validate import validate
from fleetcore.wire.messages import COMMAND_RESULT, TELEMETRY
from fleetcore.wire.replies import rejection

_log = logging.getLogger(__name__)

#: So many messages are handled together at most; readings are handled between two such groups.
_TOGETHER = 64


class DataPath:
    """Everything between the queue and the acknowledgement."""

    def __init__(
        self,
        storage: Storage,
        codecs: Codecs,
        directory: Directory,
        handlers: Handlers,
        clock: Clock,
        limits: Limits,
        refusals: Refusals,
    ) -> None:
        self._storage, self._codecs, self._handlers = storage, codecs, handlers
        self._directory, self._limits = directory, limits
        self._admit = Admit(directory, clock, limits)
        self._store = Store(storage, clock, limits)
        self._acknowledge = Acknowledge(refusals)

    @property
    def tally(self) -> Tally:
        """The outcome of all readings since the start."""
        return self._store.tally

    @property
    def reasons(self) -> dict[str, int]:
        """Readings refused since the start, by code."""
        return dict(self._store.reasons)

    @property
    def accepted(self) -> int:
        """Messages accepted since the start."""
        return self._acknowledge.accepted

    @property
    def rejected(self) -> dict[str, int]:
        """Messages refused since the start, by code."""
        return self._acknowledge.refusals.by_code

    async def process(self, deliveries: list[Delivery]) -> None:
        """Handles a batch: every delivery's ``done`` is called, whatever happens."""
        columns = Columns()
        simple, rest = fast_path.take(deliveries, columns, self._directory.last_seen, self._limits.message_bytes)
        messages, others = await self._admitted(rest) if rest else ([], {})
        work = [self._readings(simple, messages, columns)] if simple or messages else []
        work += self._chains(others.values())
        if len(work) == 1:
            await work[0]
        else:
            await asyncio.gather(*work)

    async def hold(self, holder: Holder, deliveries: list[Delivery]) -> None:
        """Admits a batch, and leaves it to a holder: every delivery's ``done`` is called, whatever happens."""
        messages, others = await self._admitted(deliveries)
        admitted = {id(delivery) for chain in others.values() for delivery in chain}
        admitted |= {id(message.delivery) for message in messages}
        kept = [delivery for delivery in deliveries if id(delivery) in admitted]
        outcome: Outcome = Accepted()
        try:
            await holder.hold([HeldMessage(session.identity, message, came) for session, message, _, came in kept])
        except (Unavailable, StorageError) as error:
            outcome = rejection(error)
        except BaseException as error:
            _log.error("%d messages could not be held", len(kept), exc_info=contained(error, "a part of it"))
            outcome = INTERNAL
        for delivery in kept:
            self._acknowledge.answer(delivery, outcome)

    async def _admitted(self, deliveries: list[Delivery]) -> tuple[list[Message], dict[str, list[Delivery]]]:
        """The messages with readings, and the others by identity; refused ones are answered."""
        messages: list[Message] = []
        others: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            try:
                state = await self._admit.admit(delivery)
            except (Unavailable, StorageError) as error:
                state = rejection(error)
            if isinstance(state, Rejected):
                self._acknowledge.answer(delivery, state)
            elif delivery[1].type is TELEMETRY:
                messages.append(Message(delivery, state))
            else:
                others[delivery[0].identity].append(delivery)
        return messages, others

    async def _readings(self, simple: list[Delivery], messages: list[Message], columns: Columns) -> None:
        later: list[Message] = []
        try:
            later = await self._steps(messages, columns)
        except (Unavailable, StorageError) as error:
            outcome = rejection(error)
            for delivery in [*simple, *(message.delivery for message in messages)]:
                self._acknowledge.answer(delivery, outcome)
            return
        except BaseException as error:
            _log.error(
                "A batch of %d messages could not be handled; each is tried alone",
                len(simple) + len(messages),
                exc_info=contained(error, "a part of it"),
            )
            for delivery in simple:
                state = delivery[0].subjects.get(delivery[1].subject)
                await self._alone(delivery, state)
            later = messages
        else:
            self._acknowledge.stored(simple, columns.counts)
            for message in messages:
                if message.answer is not None:
                    self._acknowledge.answer(message.delivery, message.answer)
        for message in later:
            await self._alone(message.delivery, message.state)

    async def _alone(self, delivery: Delivery, state: DeviceState | None) -> None:
        outcome: Outcome = FOREIGN  # it was moved away while its batch was handled
        if state is not None:
            message = Message(delivery, state)
            try:
                await self._steps([message], Columns())
            except (Unavailable, StorageError) as error:
                outcome = rejection(error)
            except BaseException as error:
                _log.error("A message with readings could not be handled", exc_info=contained(error, "a part of it"))
                outcome = INTERNAL
            else:
                outcome = message.answer or INTERNAL
        self._acknowledge.answer(delivery, outcome)

    async def _steps(self, messages: list[Message], columns: Columns) -> list[Message]:
        """Answers messages; returns the untouched rest, which must wait for one of these."""
        pairs = [(message, decode(self._codecs, message)) for message in messages]
        later = self._store.later(messages)
        now = [message for message in messages if message not in later] if later else messages
        await self._store.repeats(now)
        fresh = [
            (place, message, decoded)
            for place, (message, decoded) in enumerate(pair for pair in pairs if not later or pair[0] not in later)
            if decoded is not None and message.answer is None
        ]
        for _, message, decoded in fresh:
            await self._find_others(message, decoded)
        await self._store.intern([(message, decoded) for _, message, decoded in fresh])
        for place, message, decoded in fresh:
            validate(columns, place, message, decoded, self._storage.catalog, self._limits)
        await self._store.commit(columns, now)
        return later

    async def _find_others(self, message: Message, decoded: Decoded) -> None:
        """The devices that single readings are about: the leaves of a gateway (wire.md §3)."""
        session = message.delivery[0]
        for subject in {reading.subject for reading in decoded.readings} - {None, message.owner}:
            assert subject is not None
            state = session.subjects.get(subject) or await self._directory.subject(session, subject)
            if state is not None:
                message.others[subject] = state
                if state.blocked is None:
                    self._directory.seen(state, message.delivery[3])

    def _chains(self, chains: Iterable[list[Delivery]]) -> list[Coroutine[Any, Any, None]]:
        """Handles the other uplinks of devices: a device's in order, those of one type together."""
        joint: dict[MessageType, list[list[Delivery]]] = defaultdict(list)
        work = []
        for chain in chains:
            row = chain[0][1].type
            if self._handlers.is_joint(row) and all(delivery[1].type is row for delivery in chain):
                joint[row].append(chain)
            else:
                work.append(self._others(chain))
        for row, alike in joint.items():
            work += [self._joint(row, alike[at : at + _TOGETHER]) for at in range(0, len(alike), _TOGETHER)]
        return work

    async def _joint(self, row: MessageType, chains: list[list[Delivery]]) -> None:
        """Handles uplinks of one type: the first of every device together, then the second of those that have one."""
        for place in range(max(map(len, chains))):
            heads = [chain[place] for chain in chains if place < len(chain)]
            outcomes = await self._handlers.handle_joint(row, [(session, message) for session, message, *_ in heads])
            for delivery, outcome in zip(heads, outcomes, strict=True):
                self._acknowledge.answer(delivery, outcome)

    async def _others(self, chain: list[Delivery]) -> None:
        """Handles one device's other uplinks, in order. Consecutive reports on commands are handled in parallel.

        Each command gets its reports in order, so that those received together are stored together.
        """
        for is_result, run in groupby(chain, key=lambda delivery: delivery[1].type is COMMAND_RESULT):
            if is_result:
                some = list(run)
                outcomes = await self._side_by_side(some)
                for delivery, outcome in zip(some, outcomes, strict=True):
                    self._acknowledge.answer(delivery, outcome)
            else:
                for delivery in run:
                    self._acknowledge.answer(delivery, await self._handled(delivery[0], delivery[1]))

    async def _side_by_side(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        # The first needs no task. It begins before the others, which are only scheduled here.
        others = [asyncio.create_task(self._handled(session, message)) for session, message, _, _ in deliveries[1:]]
        try:
            return [await self._handled(deliveries[0][0], deliveries[0][1]), *[await other for other in others]]
        finally:
            for other in others:
                other.cancel()

    async def _handled(self, session: DeviceSession, message: Inbound) -> Outcome:
        outcome = await self._handlers.handle(session, message)
        if isinstance(outcome, Reply):
            _log.error("The handler of %s answered an uplink with a reply", message.type)
            return INTERNAL
        return outcome
