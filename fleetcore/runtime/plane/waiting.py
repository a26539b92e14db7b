"""Waiting items: devices ask for them, and get them now or when there are some."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from fleetcore.fleet.registry import Registry
from fleetcore.interfaces.protocol import Session
from fleetcore.model.message import Handler, MessageType, Reply, Request
from fleetcore.model.message import Waiting as Source
from fleetcore.pipeline.session import DeviceSession
from fleetcore.runtime.plane.downlinks import SERVED
from fleetcore.runtime.plane.sessions import Sessions
from fleetcore.wire import messages

#: The number of devices whose counts of waiting items are cached; only changes reported here affect them.
_PENDING_KEPT = 100_000


class Waiting:
    """Long polls, and the waiting items that an answer announces.

    Args:
        sources: the waiting items of devices, by message type.
    """

    def __init__(self, registry: Registry, sessions: Sessions, sources: Mapping[MessageType, Source]) -> None:
        self._registry, self._sessions, self._sources = registry, sessions, sources
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._pending: dict[str, Mapping[str, int]] = {}
        #: Devices whose counts are being read: a change meanwhile makes the result stale.
        self._reading: dict[str, object] = {}

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers of the calls by which devices ask for waiting items."""
        return {messages.INBOX: self._inbox}

    async def _inbox(self, request: Request, _body: object) -> Reply:
        body = await self._read(request.subject, messages.INBOX, 0)
        return Reply(status=200 if body else 204, body=body)

    def changed(self, device: str) -> None:
        """Something changed for a device: its long polls check again."""
        self.forget(device)
        for event in self._waiters.get(device, ()):
            event.set()

    def forget(self, device: str) -> None:
        """A device has sent a report, so fewer items may wait for it."""
        self._pending.pop(device, None)
        self._reading.pop(device, None)

    async def wait(
        self, session: Session, subject: str, what: MessageType, after: int, timeout_s: float
    ) -> Mapping[str, object] | None:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.wait`."""
        opened = await self._sessions.check(session, subject)
        self._sessions.both_seen(opened, subject)
        event = asyncio.Event()
        self._waiters[subject].add(event)
        try:
            async with asyncio.timeout(timeout_s if timeout_s > 0 else None):
                while True:
                    event.clear()
                    # Checked each time: a leaf may have been moved away, or a right lost, meanwhile.
                    await self._sessions.check(session, subject)
                    body = await self._read(subject, what, after)
                    if session.ended is not None:
                        return None
                    if body is not None or timeout_s <= 0:
                        return body
                    await event.wait()
        except TimeoutError:
            return None
        finally:
            self._waiters[subject].discard(event)
            if not self._waiters[subject]:
                del self._waiters[subject]

    async def _read(self, subject: str, what: MessageType, after: int) -> Mapping[str, object] | None:
        device = await self._registry.find(subject)
        if device is None or device.lifecycle not in SERVED:
            return None
        if what is not messages.INBOX:
            return await self._sources[what].read(subject, after)
        found = {row.waits: await source.read(subject, after) for row, source in self._sources.items()}
        return {name: body for name, body in found.items() if body is not None} or None

    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        """See :meth:`fleetcore.interfaces.protocol.DevicePlane.pending`."""
        assert isinstance(session, DeviceSession)
        if subject not in session.subjects:
            return {}
        known = self._pending.get(subject)
        if known is not None:
            return known
        reading = self._reading[subject] = object()
        try:
            found = {row.waits: await source.count(subject) for row, source in self._sources.items()}
            counts = {name: count for name, count in found.items() if count}
            if self._reading.get(subject) is reading:
                if len(self._pending) >= _PENDING_KEPT:
                    self._pending.clear()
                self._pending[subject] = counts
            return counts
        finally:
            if self._reading.get(subject) is reading:
                del self._reading[subject]
