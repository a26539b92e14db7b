"""Sessions in which a program sends for devices: one per device, kept open between calls.

They are not connections: a device's messages make it present, and nothing goes offline when they close.
"""

from fleetcore.errors import NotAuthorised
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import LocalCredential
from fleetcore.pipeline.session import OWNER, DeviceSession, DeviceState
from fleetcore.runtime.plane.plane import Plane

#: How many are kept; a new one closes the oldest.
_KEPT = 10_000


class LocalSessions:
    """Opens a device's session at its first use, and again after it has ended."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._open: dict[str, Session] = {}

    async def of(self, device: str) -> Session:
        """The device's session. Raises the device plane's errors, such as NotAuthorised for a suspended device."""
        session = self._open.get(device)
        if session is None or session.ended is not None:
            session = await self._plane.authenticate(LocalCredential(device), protocol=OWNER)
            if len(self._open) >= _KEPT:
                self._open.pop(next(iter(self._open))).close()
            self._open[device] = session
        return session

    async def state(self, device: str) -> DeviceState | str:
        """The data path's state of the device, or the code with which its messages are refused."""
        try:
            session = await self.of(device)
        except NotAuthorised as error:
            return error.code
        return session.state if isinstance(session, DeviceSession) else "device_unknown"
