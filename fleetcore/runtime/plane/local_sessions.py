"""Sessions through which a program speaks for devices: one each, kept open from call to call.

They are not connections: a device is seen by its messages, and nothing goes offline when they close.
"""

from fleetcore.errors import NotAuthorised
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import LocalCredential
from fleetcore.pipeline.session import OWNER, DeviceSession, DeviceState
from fleetcore.runtime.plane.plane import Plane

#: How many are kept; the oldest is closed for a new one.
_KEPT = 10_000


class LocalSessions:
    """Opens a device's session when it is first asked for, and again where it has ended."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._open: dict[str, Session] = {}

    async def of(self, device: str) -> Session:
        """The device's session. Raises what the device plane raises: NotAuthorised for a suspended device, say."""
        session = self._open.get(device)
        if session is None or session.ended is not None:
            session = await self._plane.authenticate(LocalCredential(device), protocol=OWNER)
            if len(self._open) >= _KEPT:
                self._open.pop(next(iter(self._open))).close()
            self._open[device] = session
        return session

    async def state(self, device: str) -> DeviceState | str:
        """How the data path sees the device, or the code of why it takes nothing of it."""
        try:
            session = await self.of(device)
        except NotAuthorised as error:
            return error.code
        return session.state if isinstance(session, DeviceSession) else "device_unknown"
