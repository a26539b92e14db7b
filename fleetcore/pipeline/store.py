"""Store: a batch of messages decoded, validated, committed in one transaction, and only then acknowledged."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
from attrs import evolve

from fleetcore.errors import FleetError, StorageError, Unavailable
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.codec import Decoded
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import (
    Accepted,
    Inbound,
    Operation,
    Outcome,
    PointRefusal,
    Rejected,
    accepted,
)
from fleetcore.model.names import is_message_id
from fleetcore.model.store import Commit, MessageMark, SeriesRequest
from fleetcore.model.telemetry import NO_SEQ, SeriesKind, Tally
from fleetcore.pipeline.decode import Codecs, Columns, Message, content_type_of, server_time
from fleetcore.pipeline.receive import Delivery
from fleetcore.pipeline.session import DeviceSession, DeviceState
from fleetcore.pipeline.validate import check_new_metric, check_time, in_unit_of, not_finite, reading_time
from fleetcore.wire.readings import FlatMessage, decode_quick
from fleetcore.wire.times import EARLIEST_MS

_log = logging.getLogger(__name__)

_JSON = (None, "application/json")
_RATE = Rejected(code="rate_limited", reason="The device sends too often", scope="device", retry_after_s=1.0)
_INTERNAL = Rejected(code="internal", reason="The message could not be handled")


class Directory(Protocol):
    """What the data path asks the device plane."""

    @property
    def last_seen(self) -> dict[str, int]:
        """When each device sent last, ms since the epoch; the data path writes it."""
        ...

    async def subject(self, session: DeviceSession, subject: str) -> DeviceState | None:
        """The state of a subject that the session may speak for, or None."""
        ...

    def seen(self, state: DeviceState, now_ms: int) -> None:
        """A message of the device, or about it, was accepted for handling."""
        ...


#: Handles one uplink that is not telemetry; commits by itself.
Control = Callable[[Inbound], Awaitable[Outcome]]


class DataPath:
    """Everything between the queue and the acknowledgement.

    Attributes:
        tally: where all readings went since the start.
        accepted, rejected: messages since the start.
    """

    def __init__(
        self,
        storage: Storage,
        codecs: Codecs,
        directory: Directory,
        control: Control,
        clock: Clock,
        limits: Limits,
        refused: Callable[[str, Inbound, Rejected], None],
    ) -> None:
        self._refused = refused
        self._storage, self._codecs, self._directory, self._control = storage, codecs, directory, control
        self._clock, self._limits = clock, limits
        self.tally = Tally()
        self.accepted = 0
        self.rejected: dict[str, int] = defaultdict(int)

    async def process(self, deliveries: list[Delivery]) -> None:
        """Handles a batch: every delivery's ``done`` is called, whatever happens."""
        columns = Columns()
        plain, rest = self._quick_lane(deliveries, columns)
        messages, controls = await self._admit(rest) if rest else ([], [])
        waiting = [self._telemetry(plain, messages, columns)] if plain or messages else []
        if controls:
            by_identity: dict[str, list[Delivery]] = defaultdict(list)
            for delivery in controls:
                by_identity[delivery[0].state.device.id].append(delivery)
            waiting += [self._controls(chain) for chain in by_identity.values()]
        if len(waiting) == 1:
            await waiting[0]
        else:
            await asyncio.gather(*waiting)

    def _quick_lane(self, deliveries: list[Delivery], columns: Columns) -> tuple[list[Delivery], list[Delivery]]:
        """The commonest messages in one loop: simplest form, known metrics, sender in good standing, time in order.

        Returns what it took, a group of the columns each and in their order, and the rest, of which nothing was
        touched. It takes nothing that the long way would refuse.
        """
        taken: list[Delivery] = []
        rest: list[Delivery] = []
        most, last_seen, telemetry = self._limits.message_bytes, self._directory.last_seen, Operation.TELEMETRY
        series, add_series, add_values = columns.series, columns.series.extend, columns.values.extend
        add_time, add_received = columns.times.append, columns.received.append
        add_quality, add_count = columns.quality.append, columns.counts.append
        take, leave = taken.append, rest.append
        for delivery in deliveries:
            session, message, _, received = delivery
            identity = session.state
            state = session.subjects.get(message.subject)
            payload = message.payload
            if (
                state is None
                or message.operation is not telemetry
                or message.id is not None
                or identity.blocked is not None
                or state.blocked is not None
                or identity.fresh
                or state.fresh
                or identity.tokens < 1
                or session.lost_rights
                or len(payload) > most
                or message.content_type not in _JSON
            ):
                leave(delivery)
                continue
            simple = decode_quick(payload)
            if simple is None:
                leave(delivery)
                continue
            time, values = simple
            quality = state.quality
            if time is None:
                time = received
                quality = server_time(quality)
            elif type(time) is not int or not EARLIEST_MS <= time <= received:
                leave(delivery)
                continue
            try:
                size = len(series)
                add_series(map(state.index_of, values))
            except KeyError:
                del series[size:]
                leave(delivery)
                continue
            add_values(values.values())
            add_time(time)
            add_received(received)
            add_quality(quality)
            add_count(len(values))
            identity.tokens -= 1
            last_seen[identity.id] = received
            if state is not identity:
                last_seen[state.id] = received
            take(delivery)
        return taken, rest

    async def _admit(self, deliveries: list[Delivery]) -> tuple[list[Message], list[Delivery]]:
        """Who may speak: session, lifecycle, rate, subject. What may not is answered here."""
        now_s = self._clock.monotonic_s()
        rate, burst, most = self._limits.rate_per_s, self._limits.burst, self._limits.message_bytes
        telemetry: list[Message] = []
        controls: list[Delivery] = []
        for delivery in deliveries:
            session, message, _, received = delivery
            identity = session.state
            if session.lost_rights:
                self._answer(delivery, Rejected(code=session.lost_rights, reason="The session has ended"))
                continue
            if identity.blocked is not None:
                self._answer(delivery, Rejected(code=identity.blocked, reason="The device may not speak"))
                continue
            if not identity.take_token(now_s, rate, burst):
                self._answer(delivery, _RATE)
                continue
            if len(message.payload) > most:
                self._answer(
                    delivery,
                    Rejected(
                        code="limit_exceeded",
                        reason="The message is too long",
                        limit=most,
                        unit="bytes",
                        scope="message",
                    ),
                )
                continue
            state = session.subjects.get(message.subject)
            if state is None:
                state = await self._directory.subject(session, message.subject)
                if state is None:
                    self._answer(
                        delivery,
                        Rejected(code="not_your_device", reason="The identity may not speak for this device"),
                    )
                    continue
            if state.blocked is not None:
                self._answer(delivery, Rejected(code=state.blocked, reason="The device may not speak"))
                continue
            self._directory.seen(identity, received)
            if state is not identity:
                self._directory.seen(state, received)
            if message.operation is Operation.TELEMETRY:
                telemetry.append(Message(delivery, state))
            else:
                controls.append(delivery)
        return telemetry, controls

    def _answer(self, delivery: Delivery, outcome: Outcome) -> None:
        if isinstance(outcome, Rejected):
            self.rejected[outcome.code] += 1
            if not outcome.temporary:
                self._refused(delivery[0].state.device.id, delivery[1], outcome)
        else:
            self.accepted += 1
        try:
            delivery[2](outcome)
        except Exception:
            _log.exception("An adapter failed to take an outcome")

    async def _controls(self, chain: list[Delivery]) -> None:
        """One device's other uplinks, in order. What it says of commands in a row is handled side by side.

        Each command takes what is said of it in its order, so that what came together is stored together.
        """
        for is_result, run in groupby(chain, key=lambda delivery: delivery[1].operation is Operation.COMMAND_RESULT):
            if is_result:
                some = list(run)
                outcomes = await self._side_by_side([delivery[1] for delivery in some])
                for delivery, outcome in zip(some, outcomes, strict=True):
                    self._answer(delivery, outcome)
            else:
                for delivery in run:
                    self._answer(delivery, await self._handled(delivery[1]))

    async def _side_by_side(self, messages: Sequence[Inbound]) -> Sequence[Outcome]:
        # The first needs no task of its own. It begins before the others, which are only scheduled here.
        others = [asyncio.create_task(self._handled(message)) for message in messages[1:]]
        try:
            return [await self._handled(messages[0]), *[await other for other in others]]
        finally:
            for other in others:
                other.cancel()

    async def _handled(self, message: Inbound) -> Outcome:
        try:
            return await self._control(message)
        except FleetError as error:
            return _rejection(error)
        except Exception:
            _log.exception("Handling %s failed", message.operation)
            return _INTERNAL

    async def _telemetry(self, plain: list[Delivery], messages: list[Message], columns: Columns) -> None:
        try:
            await self._store(plain, messages, columns)
        except (Unavailable, StorageError) as error:
            self._answer_all(plain, messages, _rejection(error))
        except Exception:
            _log.exception(
                "A batch of %d messages could not be handled; each is tried alone", len(plain) + len(messages)
            )
            for message in messages + [Message(delivery, _subject_of(delivery)) for delivery in plain]:
                message.refused, message.count = None, 0
                try:
                    await self._store([], [message], Columns())
                except (Unavailable, StorageError) as error:
                    self._answer(message.delivery, _rejection(error))
                except Exception:
                    _log.exception("A telemetry message could not be handled")
                    self._answer(message.delivery, _INTERNAL)

    def _answer_all(self, plain: list[Delivery], messages: list[Message], outcome: Outcome) -> None:
        for delivery in plain:
            self._answer(delivery, outcome)
        for message in messages:
            self._answer(message.delivery, outcome)

    async def _store(self, plain: list[Delivery], messages: list[Message], columns: Columns) -> None:
        answers: dict[int, Outcome] = {}
        repeats: dict[int, int | Outcome] = {}
        if messages:
            repeats = await self._fill(messages, columns, answers)
        batch, texts, owner = columns.finish()
        bad = not_finite(batch) if messages else np.empty(0, np.int64)
        if len(bad):
            for at in bad.tolist():
                message = messages[int(owner[at])]
                message.refuse(0, self._storage.catalog.series(int(batch.series[at])).metric, "number_not_finite")
                message.count -= 1
            batch = batch.take(np.setdiff1d(np.arange(len(batch)), bad))
        now = self._clock.now_ms()
        marks: list[MessageMark] = []
        refused = 0
        for i, message in enumerate(messages):
            if i in repeats:
                continue
            outcome = answers.get(i)
            if outcome is None:
                outcome = answers[i] = _outcome(message, self._limits)
            refused += len(message.refused or ())
            if message.id is not None and isinstance(outcome, Accepted):
                marks.append(MessageMark(device=message.owner, id=message.id, time=now, answer=_answer_body(outcome)))
        if len(batch) or texts or marks:
            done = await self._storage.commit(
                Commit(readings=batch if len(batch) else None, texts=texts, marks=tuple(marks))
            )
            self.tally += done.tally
        again = 0
        for i, first in repeats.items():
            answer = answers[i] = answers[first] if isinstance(first, int) else first
            again += answer.stored if isinstance(answer, Accepted) else 0
        self.tally += Tally(refused=refused, duplicates=again)
        self.accepted += len(plain)
        for delivery, count in zip(plain, columns.counts, strict=False):
            try:
                delivery[2](accepted(count))
            except Exception:
                _log.exception("An adapter failed to take an outcome")
        for i, message in enumerate(messages):
            self._answer(message.delivery, answers[i])

    async def _fill(
        self, messages: list[Message], columns: Columns, answers: dict[int, Outcome]
    ) -> dict[int, int | Outcome]:
        """The long way into the columns; returns the messages whose id was used before."""
        quick, full = self._decode(messages, answers)
        repeats = await self._repeats(messages, answers) if any(one.id is not None for one in messages) else {}
        await self._find_others(messages, full)
        await self._intern(messages, quick, full, answers)
        for i, message in enumerate(messages):
            if i in answers or i in repeats:
                continue
            simple = quick[i]
            if simple is not None:
                self._fill_quick(columns, i, message, *simple)
            else:
                self._fill_full(columns, i, message, full[i])
        return repeats

    def _decode(
        self, messages: list[Message], answers: dict[int, Outcome]
    ) -> tuple[list[FlatMessage | None], dict[int, Decoded]]:
        quick: list[FlatMessage | None] = []
        full: dict[int, Decoded] = {}
        for i, message in enumerate(messages):
            delivery = message.delivery
            inbound = delivery[1]
            declared = content_type_of(delivery) if inbound.content_type is not None else None
            simple = self._codecs.quick(inbound.payload, declared)
            quick.append(simple)
            if simple is not None:
                continue
            decoded = self._codecs.decode(inbound.payload, declared, delivery[3])
            if isinstance(decoded, Rejected):
                answers[i] = decoded
                continue
            full[i] = decoded
            message.id = message.id or decoded.id
            for index, metric, code in decoded.refused:
                message.refuse(index, metric, code)
        for i, message in enumerate(messages):
            if message.id is not None and i not in answers and not is_message_id(message.id):
                answers[i] = Rejected(
                    code="schema_invalid", reason="A message id has 1-64 visible characters", pointer="/id"
                )
        return quick, full

    async def _repeats(self, messages: list[Message], answers: dict[int, Outcome]) -> dict[int, int | Outcome]:
        """Messages whose id was used before: by position, the first answer or the position of the first message."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for i, message in enumerate(messages):
            if message.id is not None and i not in answers:
                wanted[message.owner].append(message.id)
        known = dict(
            zip(
                wanted,
                await asyncio.gather(*(self._storage.marks(who, ids) for who, ids in wanted.items())),
                strict=True,
            )
        )
        first: dict[tuple[str, str], int] = {}
        repeats: dict[int, int | Outcome] = {}
        for i, message in enumerate(messages):
            if message.id is None or i in answers:
                continue
            mark = known[message.owner].get(message.id)
            if mark is not None:
                repeats[i] = _answer_of(mark)
                continue
            before = first.setdefault((message.owner, message.id), i)
            if before != i:
                repeats[i] = before
        return repeats

    async def _find_others(self, messages: list[Message], full: dict[int, Decoded]) -> None:
        """Whom the readings of a message are about beside its own subject: the leaves of a gateway (WIRE.md §3)."""
        for i, decoded in full.items():
            message = messages[i]
            session = message.delivery[0]
            for subject in {one.subject for one in decoded.readings} - {None, message.owner}:
                assert subject is not None
                state = session.subjects.get(subject) or await self._directory.subject(session, subject)
                if state is not None:
                    message.others[subject] = state
                    if state.blocked is None:
                        self._directory.seen(state, message.delivery[3])

    async def _intern(
        self,
        messages: Sequence[Message],
        quick: Sequence[FlatMessage | None],
        full: dict[int, Decoded],
        answers: dict[int, Outcome],
    ) -> None:
        """Gives every new, allowed metric of the batch its series, in one call."""
        wanted: dict[tuple[str, str], tuple[DeviceState, SeriesRequest]] = {}
        fresh: dict[str, int] = defaultdict(int)

        def want(state: DeviceState, metric: str, value: object, unit: str | None) -> None:
            owner = state.device.id
            key = (owner, metric)
            if metric in state.metrics or key in wanted:
                return
            if check_new_metric(metric, len(state.metrics) + fresh[owner], self._limits) is not None:
                return
            fresh[owner] += 1
            wanted[key] = state, SeriesRequest(owner, metric, unit, _kind(value))

        for i, message in enumerate(messages):
            simple = quick[i]
            if i in answers:
                continue
            if simple is not None:
                if not message.state.metrics.keys() >= simple[1].keys():
                    for metric, value in simple[1].items():
                        want(message.state, metric, value, None)
                continue
            for reading in full[i].readings:
                state = message.about(reading.subject)
                if state is not None and state.blocked is None:
                    want(state, reading.metric, reading.value, reading.unit)
        if not wanted:
            return
        made = await self._storage.intern([request for _, request in wanted.values()])
        for (owner_state, _), series in zip(wanted.values(), made, strict=True):
            owner_state.metrics[series.metric] = series.index

    def _fill_quick(self, columns: Columns, i: int, message: Message, time: object, values: dict[str, float]) -> None:
        received = message.delivery[3]
        state = message.state
        quality = state.quality
        if time is None:
            when = received
            quality = server_time(quality)
        else:
            checked = check_time(time, received, self._limits)
            if isinstance(checked, str):
                for index, metric in enumerate(values):
                    message.refuse(index, metric, checked)
                return
            when = checked
        if columns.add_group(i, state, values, when, received, quality):
            message.count = len(values)
            return
        for index, (metric, value) in enumerate(values.items()):
            series = state.metrics.get(metric)
            if series is None:
                message.refuse(index, metric, self._refusal(metric, state))
            else:
                columns.add(i, series, value, when, received, quality, NO_SEQ)
                message.count += 1

    def _refusal(self, metric: str, state: DeviceState) -> str:
        return check_new_metric(metric, len(state.metrics), self._limits) or "too_many_metrics"

    def _fill_full(self, columns: Columns, i: int, message: Message, decoded: Decoded) -> None:
        received = message.delivery[3]
        for reading in decoded.readings:
            state = message.about(reading.subject)
            if state is None or state.blocked is not None:
                code = "not_your_device" if state is None else state.blocked
                message.refuse(reading.index, reading.metric, code or "not_your_device")
                continue
            time = reading_time(reading, received, self._limits)
            if isinstance(time, str):
                message.refuse(reading.index, reading.metric, time)
                continue
            index = state.metrics.get(reading.metric)
            if index is None:
                message.refuse(reading.index, reading.metric, self._refusal(reading.metric, state))
                continue
            value = reading.value
            if reading.unit is not None:
                converted = in_unit_of(self._storage.catalog.series(index), reading)
                if converted is None:
                    message.refuse(reading.index, reading.metric, "unit_mismatch")
                    continue
                value = converted
            quality = server_time(state.quality) if time is None else state.quality
            seq = NO_SEQ if reading.seq is None else reading.seq
            columns.add(i, index, value, received if time is None else time, received, quality, seq)
            message.count += 1


def _kind(value: object) -> SeriesKind:
    if isinstance(value, bool):
        return SeriesKind.BOOLEAN
    return SeriesKind.TEXT if isinstance(value, str) else SeriesKind.NUMBER


def _subject_of(delivery: Delivery) -> DeviceState:
    return delivery[0].subjects[delivery[1].subject]


def _outcome(message: Message, limits: Limits) -> Outcome:
    if not message.refused:
        return accepted(message.count)
    refused = tuple(sorted(message.refused, key=lambda one: one.index))
    if message.count:
        return Accepted(stored=message.count, refused=refused)
    outcome = Rejected(code=refused[0].code, reason="No reading of the message could be taken", refused=refused)
    if outcome.code == "too_many_metrics":
        return evolve(outcome, limit=limits.metrics, unit="metrics", scope="device")
    return outcome


def _answer_body(outcome: Accepted) -> dict[str, object]:
    body: dict[str, object] = {"stored": outcome.stored}
    if outcome.refused:
        body["refused"] = [[one.index, one.metric, one.code] for one in outcome.refused]
    return body


def _answer_of(mark: MessageMark) -> Outcome:
    stored, refused = mark.answer.get("stored"), mark.answer.get("refused", [])
    assert isinstance(stored, int)
    assert isinstance(refused, list)
    return Accepted(stored=stored, refused=tuple(PointRefusal(*one) for one in refused))


def _rejection(error: FleetError) -> Rejected:
    retry = error.retry_after_s if isinstance(error, Unavailable) else None
    return Rejected(code=error.code, reason=error.message, retry_after_s=retry)
