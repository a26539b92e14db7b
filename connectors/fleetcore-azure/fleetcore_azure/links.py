"""Connections under devices' names, kept while they are used: they write reported state to the hub's twins.

A limited number is open together, and idle ones are closed. IoT Hub allows one connection per device: when the device
itself connects, ours is dropped. Then, and if the hub reports that the device is already connected, the mirror ignores
it for a time that doubles, and logs it: it never takes over a device's connection.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.interfaces.waits import end_task
from fleetcore_azure.clients import Clients
from fleetcore_azure.failures import HubFailed, from_answer
from fleetcore_azure.held import CERTIFICATES, DISABLED, OWN, Devices, Held
from fleetcore_azure.link import Door, Link, LinkAnswer, LinkLost, Unanswered, reach
from fleetcore_azure.tokens import Signatures

_log = logging.getLogger(__name__)

#: Devices of a mirror: connections are practical for a limited number, and a hub bills and throttles all of them.
MAX = 1000
#: In a twin's tag: a link, not the device, wrote the reported state at the hub.
LINK, MQTT = "link", "mqtt"
OPEN, _WRITE = "links/open", "twins/write"
_IDLE_S = 60.0
#: How late the hub may report the end of a connection (device twins, connectionState).
_LATE_S = 300.0
#: How long a device that is connected itself is ignored, at first and at most.
_LEFT_S, _MAX_LEFT_S = 60.0, 3600.0
#: How long a disabled device waits.
_DISABLED_S = 600.0
#: The minimum interval of recounting a full mirror.
_COUNTED_S = 60.0


def too_many() -> Refused:
    """The mirror has more devices than links can serve."""
    return Refused(
        f'device_link = "{MQTT}" connects for {MAX:,} devices of a mirror, and this one has more',
        code="limit_exceeded",
        remedy="Remove device_link, so that reports go to tags, or select fewer devices with where",
    )


@frozen
class _Left:
    """A device that is ignored until a time of the fleet's clock."""

    until_s: float
    for_s: float


class Links:
    """See the module; open it with :func:`open_links`."""

    def __init__(self, clients: Clients, devices: Devices, door: Door, most: int) -> None:
        self._clients, self._devices, self.door, self._most = clients, devices, door, most
        #: By device, the most recently used at the end.
        self._open: dict[str, Link] = {}
        self._used_s: dict[str, float] = {}
        self._busy: set[str] = set()
        self._opening = 0
        self._freed = asyncio.Event()
        #: All unclosed ones, including those whose opening was cancelled.
        self._made: set[Link] = set()
        self._ended = False
        self._closed_s: dict[str, float] = {}
        self._left: dict[str, _Left] = {}
        self._linked: set[str] = set()
        self._count: int | None = None
        self._counted_s = -math.inf
        self._counting = asyncio.Lock()

    # -- which devices ----------------------------------------------------------------------------------------------

    async def refused(self, there: Held, *, linked: bool) -> str | None:
        """Why reports for a device are never possible; None if they are. ``linked`` ones already have their place.

        Raises HubFailed, also if they may be possible later.
        """
        if there.authentication != "sas":
            return CERTIFICATES
        if there.status != "enabled":
            raise HubFailed(OPEN, "in_use", DISABLED, retry_after_s=_DISABLED_S)
        async with self._counting:
            if linked or there.name in self._linked:
                return None
            now_s = self._clients.clock.monotonic_s()
            if self._count is None or (self._count >= MAX and now_s - self._counted_s > _COUNTED_S):
                where = f"{self._devices.mine_by_twin} AND tags.{OWN}.twin.{LINK} = '{MQTT}'"
                self._count, self._counted_s = await self._clients.count(where), now_s
            if self._count >= MAX:
                error = too_many()
                return f"{error.code}: {error.message}. {error.remedy}"
            self._linked.add(there.name)
            self._count += 1
            return None

    async def gone(self, name: str, *, linked: bool) -> None:
        """The device, or its twin, was removed: frees its place, and closes its connection."""
        if self._count is not None and (linked or name in self._linked):
            self._count -= 1
        self._linked.discard(name)
        self._left.pop(name, None)
        if name in self._open:
            await self._shut(name)

    @property
    def left_alone(self) -> list[str]:
        """Names of devices that are connected themselves."""
        now_s = self._clients.clock.monotonic_s()
        return sorted(name for name, left in self._left.items() if left.until_s > now_s)

    # -- writing ----------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether a device's connection is open."""
        return name in self._open

    async def write(self, name: str, changes: Mapping[str, object], *, connected: bool = False) -> int | None:
        """Merges into a device's reported properties; returns their new version, None if the hub does not say.

        Args:
            connected: whether the hub reports an open connection of the device.

        Raises:
            HubFailed: of kind ``in_use`` if the device itself is connected.
        """
        now_s = self._clients.clock.monotonic_s()
        left = self._left.get(name)
        if left is not None and left.until_s > now_s:
            raise self._in_use(left.until_s - now_s)
        self._busy.add(name)
        try:
            link = self._open.get(name)
            if link is not None and link.until_s < time.time():
                await self._shut(name)  # its token expires
                link = None
            if link is None:
                if connected and now_s - self._closed_s.get(name, -math.inf) > _LATE_S:
                    raise self._leave(name, "the device itself is connected")
                link = await self._opened(name)
            answer = await self._asked(name, link, changes)
        finally:
            self._busy.discard(name)
            self._freed.set()
        return answer.version

    async def _asked(self, name: str, link: Link, changes: Mapping[str, object]) -> LinkAnswer:
        def work(_tokens: Signatures) -> LinkAnswer:
            answer = link.report(changes)
            if answer.status >= 300:
                raise from_answer(_WRITE, answer.status, answer.body, {}, time.time())
            return answer

        try:
            answer = await self._clients.for_link(_WRITE, work)
        except LinkLost as lost:
            self._made.discard(link)
            self._forget(name)
            self._closed_s.pop(name, None)
            raise self._leave(name, str(lost)) from lost
        except Unanswered as error:
            await self._shut(name)
            raise HubFailed(_WRITE, "unavailable", str(error), lost=True) from error
        self._open[name] = self._open.pop(name, link)
        self._used_s[name] = self._clients.clock.monotonic_s()
        return answer

    async def _opened(self, name: str) -> Link:
        await self._make_room()
        self._opening += 1
        waits = True

        def work(tokens: Signatures) -> Link:
            link = Link(self.door, name, *tokens.for_device(name))
            self._made.add(link)
            if self._ended:  # checked once the link is among those that close() ends
                raise LinkLost("the mirror ends")
            try:
                link.open()
            except LinkLost:
                self._made.discard(link)
                raise
            if not waits:
                link.close()
                self._made.discard(link)
            return link

        try:
            link = await self._clients.for_link(OPEN, work)
        except LinkLost as lost:
            if lost.let_in:
                raise HubFailed(OPEN, "unavailable", str(lost), lost=not lost.reached) from lost
            # The hub gives the same error for an invalid key and for a device that the policy may not use.
            reason = await self._devices.why_closed(name)
            if reason is not None:
                raise HubFailed(OPEN, "unavailable", reason) from lost
            self._clients.key_refused()
            raise HubFailed(OPEN, "credentials", str(lost)) from lost
        except asyncio.CancelledError:
            waits = False
            raise
        finally:
            self._opening -= 1
            self._freed.set()
        self._open[name] = link
        self._used_s[name] = self._clients.clock.monotonic_s()
        return link

    async def _make_room(self) -> None:
        while len(self._open) + self._opening >= self._most:
            idle = next((name for name in self._open if name not in self._busy), None)
            if idle is not None:
                await self._shut(idle)
            else:
                self._freed.clear()
                await self._freed.wait()

    def _leave(self, name: str, why: str) -> HubFailed:
        before = self._left.get(name)
        for_s = _LEFT_S if before is None else min(before.for_s * 2, _MAX_LEFT_S)
        self._left[name] = _Left(self._clients.clock.monotonic_s() + for_s, for_s)
        _log.warning(
            "Azure IoT Hub: %s is ignored for %g s: %s. If it connects to the hub itself, record "
            "it: `fleetcore device set DEVICE --home NAME`", name, for_s, why,
        )  # fmt: skip
        return self._in_use(for_s)

    @staticmethod
    def _in_use(wait_s: float) -> HubFailed:
        said = "the device, which is connected to IoT Hub itself, is ignored"
        return HubFailed(OPEN, "in_use", said, retry_after_s=wait_s)

    # -- closing ----------------------------------------------------------------------------------------------------

    def _forget(self, name: str) -> Link | None:
        self._used_s.pop(name, None)
        return self._open.pop(name, None)

    async def _shut(self, name: str) -> None:
        link = self._forget(name)
        if link is None:
            return
        self._closed_s[name] = self._clients.clock.monotonic_s()
        await self._clients.in_thread(link.close)
        self._made.discard(link)

    async def close_idle(self) -> None:
        """Runs until cancelled: closes links unused for a minute."""
        while True:
            await self._clients.clock.sleep(_IDLE_S / 2)
            now_s = self._clients.clock.monotonic_s()
            for name in [each for each, used_s in self._used_s.items() if now_s - used_s >= _IDLE_S]:
                if name not in self._busy:
                    self._left.pop(name, None)  # no other connection was opened while it was open
                    await self._shut(name)
            self._closed_s = {name: at for name, at in self._closed_s.items() if now_s - at <= _LATE_S}

    def close(self) -> None:
        """Closes all, after the current use by threads."""
        self._ended = True
        for link in list(self._made):
            link.close()

    # -- mirror check -----------------------------------------------------------------------------------------------

    async def reach(self) -> None:
        """Tests whether the hub's endpoint for devices can be reached. Raises HubFailed."""

        def work(_tokens: Signatures) -> None:
            try:
                reach(self.door)
            except OSError as error:
                where = f"{self.door.host}:{self.door.port}"
                raise HubFailed(OPEN, "unavailable", f"{where} cannot be reached: {error}", lost=True) from error

        await self._clients.for_link(OPEN, work)


@asynccontextmanager
async def open_links(clients: Clients, devices: Devices, most: int) -> AsyncIterator[Links | None]:
    """Links within the context, if the mirror uses them; none is left open after it."""
    if clients.door is None:
        yield None
        return
    links = Links(clients, devices, clients.door, most)
    closing = asyncio.create_task(links.close_idle(), name="fleetcore azure links")
    try:
        yield links
    finally:
        await end_task(closing)
        await asyncio.to_thread(links.close)
