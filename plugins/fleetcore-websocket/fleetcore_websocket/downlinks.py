"""Messages to one device. While it reads slowly they are not queued here, but read from the plane later.

Desired state, offers and commands wait behind the plane. So for a device whose transport is full only the names of
changed states are kept; once there is room each is read in its current state: the newest state, commands that are still
open. Items that the plane would not send again, a cancellation or a command without an answer, are kept as they are.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

from attrs import frozen

from fleetcore.errors import FleetError, NotAuthorised
from fleetcore.interfaces import Session
from fleetcore.model.message import Downlink, MessageType
from fleetcore.wire import messages
from fleetcore_websocket.closing import Close
from fleetcore_websocket.frames import Form, downlink_members
from fleetcore_websocket.host import Host
from fleetcore_websocket.stream import MessageStream

#: Items kept as they are for one device; beyond it the connection ends.
KEPT = 256

_Key = tuple[MessageType, str, str]


@frozen
class _Asked:
    """A state to be read: its type in the plane, and the device's version."""

    after: int = 0


@frozen
class _AsItIs:
    downlink: Downlink
    until_s: float | None


class Downlinks:
    """Belongs to one open connection of a device."""

    def __init__(self, stream: MessageStream, host: Host, form: Form, session: Session) -> None:
        self._stream, self._host, self._form, self._session = stream, host, form, session
        self._app = host.app
        self._held: dict[_Key, _Asked | _AsItIs] = {}
        self._kept = 0
        self._telling = False

    @property
    def held(self) -> int:
        """How much waits for room."""
        return len(self._held)

    def take(self, downlink: Downlink) -> None:
        """Handles a downlink of the plane, within its own turn of the loop."""
        if self._stream.closed:
            return
        if self._held or self._telling or not self._stream.writable:
            self._hold(downlink)
        else:
            self._send(downlink)

    def _send(self, downlink: Downlink) -> None:
        self._stream.send(self._form.write(downlink_members(self._session.identity, downlink)))

    def _hold(self, downlink: Downlink) -> None:
        row, subject = downlink.type, downlink.subject
        key = (row, subject, "")
        if row is messages.TWIN_DESIRED:
            since = downlink.body.get("since")
            self._held.setdefault(key, _Asked(since if isinstance(since, int) else 0))
        elif row is messages.FIRMWARE or (row is messages.COMMAND and downlink.body.get("respond") != "none"):
            self._held.setdefault(key, _Asked())
        else:
            key = (row, subject, str(downlink.target or downlink.body.get("id", "")))
            self._kept += key not in self._held
            lasts_ms = downlink.expires_ms
            until_s = None if lasts_ms is None else self._app.clock.monotonic_s() + lasts_ms / 1000
            self._held[key] = _AsItIs(downlink, until_s)
            if self._kept > KEPT:
                self._app.context.count("websocket_slow_consumer")
                self._stream.end(Close.OVERLOAD, "too many messages wait for this device")

    def tell(self) -> None:
        """There is room: waiting items are sent, in the order of their arrival."""
        if self._held and not self._telling and self._stream.writable:
            self._telling = True
            self._host.spawn(self._tell(), f"{self._app.name}: waiting items of {self._session.identity}")

    async def _tell(self) -> None:
        try:
            while self._held and self._stream.writable and not self._stream.closed:
                key = next(iter(self._held))
                held = self._held.pop(key)
                if isinstance(held, _AsItIs):
                    self._kept -= 1
                    if held.until_s is None or held.until_s > self._app.clock.monotonic_s():
                        self._send(held.downlink)
                    continue
                try:
                    async for downlink in self._ask(key[0], key[1], held.after):
                        self._send(downlink)
                except NotAuthorised:
                    continue  # it belongs to another gateway by now, or the device has lost its rights
                except FleetError:
                    self._held.setdefault(key, held)
                    raise
        except FleetError as error:  # the store fails; the sweep tries again
            self._app.context.logger.warning("Waiting items cannot be sent to %s: %s", self._session.identity, error)
        finally:
            self._telling = False

    async def _ask(self, row: MessageType, subject: str, after: int) -> AsyncIterator[Downlink]:
        body = await self._app.plane.wait(self._session, subject, row, after=after)
        if body is None:
            return
        if row is not messages.COMMAND:
            yield Downlink(type=row, subject=subject, body=body)
            return
        for command in cast("Sequence[Mapping[str, object]]", body["commands"]):
            yield Downlink(type=row, subject=subject, body=command)
