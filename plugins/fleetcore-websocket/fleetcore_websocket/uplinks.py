"""Messages from one device: a frame becomes an Inbound, and its outcome the reply with the frame's number.

Committed: ``ok``. Refused, permanently or temporarily: ``ok: false`` with the problem, which has ``retry_after_s`` if
the same message may succeed later. A frame without a number gets no reply; its refusal comes as ``errors``. At most 64
requests are open; then reading stops. The plane decides whether the device may send it, so a foreign subject is passed
on and audited there.
"""

from collections import deque
from functools import partial

from attrs import frozen

from fleetcore.errors import FleetError
from fleetcore.interfaces import Session
from fleetcore.model.message import UNKNOWN, Direction, Inbound, MessageType, Outcome, Rejected, Reply
from fleetcore.wire import messages
from fleetcore.wire.replies import refusal, reply_to
from fleetcore_websocket.frames import Form, Frame, RequestId, Unreadable, reply_members
from fleetcore_websocket.host import Host
from fleetcore_websocket.stream import Hold, MessageStream

#: The maximum of open requests of one connection (docs/reference/wire.md §4).
OPEN_REQUESTS = 64
#: Bytes of an unreadable frame kept for operators.
_KEPT_BYTES = 4096


@frozen
class _Answer:
    id: RequestId | None
    reply: Reply
    subject: str


class Uplinks:
    """Belongs to one open connection."""

    def __init__(self, stream: MessageStream, host: Host, form: Form, session: Session) -> None:
        self._stream, self._host, self._form, self._session = stream, host, form, session
        self._app = host.app
        self._message_bytes = host.app.context.limits.message_bytes
        self._open: set[RequestId] = set()
        self._count = 0
        self._answers: deque[_Answer] = deque()
        self._answering = False

    @property
    def busy(self) -> bool:
        """Whether a frame was read and is not answered yet."""
        return self._count > 0

    def take(self, payload: bytes) -> None:
        """Handles one message of the WebSocket."""
        try:
            frame = self._form.read(payload)
        except Unreadable as error:
            unread = Inbound(type=UNKNOWN, subject=self._session.identity, payload=payload[:_KEPT_BYTES])
            self._refuse(None if error.id in self._open else error.id, unread, error.rejected)
            return
        row = messages.NAMED.get(frame.op)
        message = Inbound(
            type=row or UNKNOWN,
            subject=frame.device or self._session.identity,
            payload=frame.payload,
            content_type=frame.content_type,
            id=frame.message_id,
            target=frame.target if row is not None else frame.op,
            if_version=frame.if_version,
        )
        rejected = self._objection(frame, row)
        if rejected is not None:
            self._refuse(None if frame.id in self._open else frame.id, message, rejected)
            return
        self._enter(frame.id)
        assert row is not None
        if row.direction is Direction.CALL:
            self._host.spawn(self._call(frame.id, message), f"{self._app.name}: call of {self._session.identity}")
        elif not self._app.ingest.deliver(self._session, message, partial(self._done, frame.id, message)):
            self._wait_for_plane()

    def _objection(self, frame: Frame, row: MessageType | None) -> Rejected | None:
        """Why a frame is refused before the plane sees it, or None."""
        if row is None or row.direction is Direction.DOWN or row.later:
            return Rejected(code="operation_unknown", reason=f"{frame.op[:64]!r} cannot be sent", pointer="/op")
        if frame.id is None and row.direction is Direction.CALL:
            return Rejected(code="schema_invalid", reason=f"{row} is answered: give the frame an id", pointer="/id")
        if frame.id in self._open:
            return Rejected(code="schema_invalid", reason="an open request already has this id", pointer="/id")
        if len(frame.payload) > self._message_bytes:
            return Rejected(
                code="limit_exceeded",
                reason="The message is too long",
                limit=self._message_bytes,
                unit="bytes",
                scope="message",
            )
        return None

    def _refuse(self, id: RequestId | None, message: Inbound, rejected: Rejected) -> None:
        """Records a message that is refused here, before the plane gets it."""
        self._app.plane.refused(self._session, message, rejected, protocol=self._app.name)
        self._enter(id)
        self._answer(_Answer(id, refusal(rejected), message.subject))

    def _enter(self, id: RequestId | None) -> None:
        if id is not None:
            self._open.add(id)
        self._count += 1
        if self._count >= OPEN_REQUESTS:
            self._stream.hold(Hold.REQUESTS)

    def _wait_for_plane(self) -> None:
        if not self._stream.holds(Hold.PLANE):
            self._stream.hold(Hold.PLANE)
            self._host.spawn(self._await_plane(), f"{self._app.name}: back-pressure")

    async def _await_plane(self) -> None:
        try:
            await self._app.ingest.ready()
        finally:
            self._stream.release(Hold.PLANE)

    async def _call(self, id: RequestId | None, message: Inbound) -> None:
        reply = await self._app.plane.call(self._session, message)
        self._answer(_Answer(id, reply, message.subject))

    def _done(self, id: RequestId | None, message: Inbound, outcome: Outcome) -> None:
        """The plane's answer, within its own turn of the loop: nothing is written here, only collected."""
        self._answer(_Answer(id, reply_to(outcome), message.subject))

    def _answer(self, answer: _Answer) -> None:
        self._answers.append(answer)
        self.answer_on()

    def answer_on(self) -> None:
        """Sends the available replies, unless the device reads too slowly for them."""
        if self._answers and not self._answering and self._has_room():
            self._answering = True
            self._host.spawn(self._send_answers(), f"{self._app.name}: replies")

    def _has_room(self) -> bool:
        # At the end everything is sent: there is no later time.
        return self._stream.writable or self._stream.closed or self._stream.holds(Hold.DRAIN)

    async def _send_answers(self) -> None:
        """Sends the answers, in order; the waiting items are read once for a whole burst."""
        try:
            while self._answers and self._has_room():
                waits: dict[str, dict[str, int]] = {}
                for _ in range(len(self._answers)):
                    if not self._has_room():
                        break
                    answer = self._answers.popleft()
                    if not self._stream.closed:
                        await self._send(answer, waits)
                    self._settle(answer.id)
        finally:
            self._answering = False

    async def _send(self, answer: _Answer, waits: dict[str, dict[str, int]]) -> None:
        if answer.id is None:
            if answer.reply.error is not None:
                self._stream.send(self._form.write({"op": messages.ERRORS.name, "body": answer.reply.error}))
            return
        # A refusal may come before the check of the leaf: then the sender's items are listed.
        subject = self._session.identity if answer.reply.error is not None else answer.subject
        if subject not in waits:
            waits[subject] = await self._pending(subject)
        self._stream.send(self._form.write(reply_members(answer.id, answer.reply, waits[subject])))

    async def _pending(self, subject: str) -> dict[str, int]:
        if self._session.ended is not None:
            return {}
        try:
            return dict(await self._app.plane.pending(self._session, subject))
        except FleetError:  # the store fails: the reply itself reports it
            return {}

    def _settle(self, id: RequestId | None) -> None:
        if id is not None:
            self._open.discard(id)
        self._count -= 1
        if self._count < OPEN_REQUESTS:
            self._stream.release(Hold.REQUESTS)
