"""The caller of a call: the fleet, the caller's rights, and the actor of its changes.

Objects that a caller may not see do not exist for it: the answer is that for an unknown id.
"""

import asyncio
import getpass
import math
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fleetcore.calls.cursors import decode, encode
from fleetcore.calls.types import Page
from fleetcore.errors import FleetError, NotAuthorised, NotFound
from fleetcore.fleet import repository
from fleetcore.fleet.rights import Rights
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.audit import AuditRow
from fleetcore.model.device import Device
from fleetcore.model.names import kind_in_words
from fleetcore.model.operator import Permission, Role, RoleGrant
from fleetcore.query.ast import Clause

if TYPE_CHECKING:
    from fleetcore.fleet.operators import RightsWatch
    from fleetcore.runtime.app import Fleet

T = TypeVar("T")
R = TypeVar("R")
#: How many records a page examines for a caller with limited rights; the page may then be short and have a `next`.
SCAN = 2000
_AT_ONCE = 200


class CallerLeft(Exception):
    """The caller is gone, so the call need not wait; its changes stay."""


class Caller:
    """One principal in one call.

    Attributes:
        fleet: the fleet that it calls.
        rights: its rights as last checked; :meth:`renewed` updates them.
        actor: the name recorded with its changes.
        permission: what the present call needs.
        asked: whether the call has checked any rights.
        subject: the device whose rights it checked last, or None.
        max_wait_s: how long a call may wait for something before it answers with the present state.
    """

    def __init__(
        self,
        fleet: "Fleet",
        rights: Rights,
        actor: str = "",
        *,
        renew: Callable[[], Awaitable[Rights]] | None = None,
        watch: "Callable[[], RightsWatch] | None" = None,
        max_wait_s: float = math.inf,
        left: Callable[[], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        """``renew`` gives the current rights, ``watch`` gives an object that reports when they may have changed.

        Without them the rights stay constant. ``left`` returns when the caller is gone, or wants an answer now.
        """
        self.fleet, self.rights = fleet, rights
        self.actor = actor or rights.actor
        self.permission = Permission.DEVICES_READ
        self.asked = False
        self.subject: Device | None = None
        self.max_wait_s = max_wait_s
        self._renew, self._watch, self._left = renew, watch, left

    async def renewed(self) -> Rights:
        """The current rights, which the caller uses from here on; raises NotAuthenticated."""
        if self._renew is not None:
            self.rights = await self._renew()
        return self.rights

    async def still(self, permission: Permission | None = None, device: str | None = None) -> None:
        """Checks a permission again in a long call: on a device, or for the whole fleet without one.

        Raises NotAuthenticated, NotAuthorised, NotFound.
        """
        permission = permission or self.permission
        await self.renewed()
        if device is None:
            self.everywhere("what was begun", permission)
        elif not self.rights.holds(permission):
            raise self.denied(device, permission)
        else:
            await self.device(device, permission)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[Coroutine[Any, Any, object]], Awaitable[None]]]:
        """Gives a function that waits for an awaitable, but only until the rights may have changed.

        After each wait call :meth:`still`. The function raises :class:`CallerLeft` where the caller is gone.
        """
        if self._left is None:
            with self._waiting() as wait:
                yield wait
            return
        left = asyncio.ensure_future(self._left())
        try:
            with self._waiting() as wait:
                yield partial(_unless, left, wait)
        finally:
            left.cancel()

    @contextmanager
    def _waiting(self) -> Iterator[Callable[[Coroutine[Any, Any, object]], Coroutine[Any, Any, None]]]:
        if self._watch is None:
            yield _wait
            return
        with self._watch() as watch:
            yield watch.first

    async def device(self, device: str, permission: Permission | None = None) -> str:
        """The id, where the caller has the permission on the device. Raises NotFound, NotAuthorised."""
        return (await self.record(device, permission)).id

    async def record(self, device: str, permission: Permission | None = None) -> Device:
        """The device, where the caller has the permission on it. Raises NotFound, NotAuthorised."""
        self.asked = True
        permission = permission or self.permission
        allowed = await self.rights.allows(permission, device)
        record = await self.fleet.devices.find(device)
        if record is None:
            raise missing("device", device)
        if not allowed:
            if await self.rights.allows(Permission.DEVICES_READ, device):
                raise self.denied(device, permission)
            self._note(device, permission)
            raise missing("device", device)
        return record

    async def item(self, device: str, kind: str, name: str, code: str = "not_found") -> None:
        """Checks the right on something that belongs to a device; it exists for callers that may see the device.

        Raises NotFound, NotAuthorised.
        """
        self.asked = True
        if await self.rights.allows(self.permission, device):
            return
        if await self.rights.allows(Permission.DEVICES_READ, device):
            raise self.denied(name)
        self._note(name, self.permission)
        raise missing(kind, name, code)

    def group(self, group: str, permission: Permission | None = None) -> str:
        """The name, where the caller has the permission for the whole fleet or in the scope of the group.

        Raises NotFound, NotAuthorised.
        """
        self.asked = True
        permission = permission or self.permission
        if self.rights.everywhere(permission) or group in self.rights.named_groups(permission):
            return group
        if self.rights.everywhere(Permission.GROUPS_READ):
            raise self.denied(group, permission)
        self._note(group, permission)
        raise missing("group", group)

    def everywhere(self, what: str, permission: Permission | None = None) -> None:
        """Checks the permission for the whole fleet; raises NotAuthorised."""
        self.asked = True
        permission = permission or self.permission
        if not self.rights.everywhere(permission):
            raise self.denied(what, permission, everywhere=True)

    def has_everywhere(self, permission: Permission | None = None) -> bool:
        """Whether the caller has the permission for the whole fleet."""
        self.asked = True
        return self.rights.everywhere(permission or self.permission)

    async def allowed(self, devices: frozenset[str], permission: Permission | None = None) -> frozenset[str]:
        """Those of some devices on which the caller has the permission."""
        self.asked = True
        permission = permission or self.permission
        if self.rights.everywhere(permission):
            return devices
        return frozenset([device for device in devices if await self.rights.allows(permission, device)])

    def narrowed(self, where: Clause | None, permission: Permission | None = None) -> Clause | None:
        """The query and the rights, as one clause."""
        self.asked = True
        return self.rights.selectable(permission or self.permission).narrowed(where)

    async def page(
        self,
        records: repository.Repository[R],
        device_of: Callable[[R], str],
        show: Callable[[R], T],
        cursor: str | None,
        limit: int,
        *,
        ref: tuple[str, str] | None = None,
        newest: bool = False,
    ) -> Page[T]:
        """The next records of devices on which the caller has the permission.

        For a caller with limited rights at most :data:`SCAN` records are examined: the page may be short.
        """
        self.asked = True
        after = decode(cursor)
        if self.rights.everywhere(self.permission):
            return answered(await records.page(ref=ref, after=after, limit=limit, newest=newest), show)
        known: dict[str, bool] = {}
        allowed: list[R] = []
        for _ in range(SCAN // _AT_ONCE):
            found = await records.page(ref=ref, after=after, limit=_AT_ONCE, newest=newest)
            for record in found.items:
                device = device_of(record)
                if device not in known:
                    known[device] = await self.rights.allows(self.permission, device)
                if not known[device]:
                    continue
                if len(allowed) == limit:
                    return Page([show(item) for item in allowed], encode(records.place(allowed[-1])))
                allowed.append(record)
            after = found.after
            if after is None:
                break
        return Page([show(item) for item in allowed], encode(after))

    async def rows(self, rows: Sequence[AuditRow]) -> list[AuditRow]:
        """The rows of the audit log about events that the caller may see."""
        self.asked = True
        known: dict[tuple[str, str], bool] = {}
        for row in rows:
            key = (row.action, row.object)
            if key not in known:
                known[key] = await self.rights.sees(self.fleet.events.find(row.action), row.object, {})
        return [row for row in rows if known[row.action, row.object]]

    def denied(self, what: str, permission: Permission | None = None, *, everywhere: bool = False) -> FleetError:
        """The error, also written to the audit log; ``everywhere``: the permission is needed for the whole fleet."""
        permission = permission or self.permission
        self._note(what, permission)
        needed = f"{permission.value} for the whole fleet" if everywhere else permission.value
        return NotAuthorised(f"This needs {needed}", remedy="An admin grants roles", permission=permission)

    def _note(self, what: str, permission: Permission) -> None:
        self.fleet.denials.note(self.actor, what, "not_authorised", permission=permission.value)


async def _wait(news: Coroutine[Any, Any, object]) -> None:
    await news


async def _unless(
    left: "asyncio.Future[object]",
    wait: Callable[[Coroutine[Any, Any, object]], Coroutine[Any, Any, None]],
    news: Coroutine[Any, Any, object],
) -> None:
    if left.done():
        news.close()
        raise CallerLeft
    waiting = asyncio.ensure_future(wait(news))
    try:
        both: set[asyncio.Future[Any]] = {waiting, left}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            raise CallerLeft
        await waiting
    finally:
        await end_tasks(waiting)


def owner(fleet: "Fleet", actor: str, *, left: Callable[[], Coroutine[Any, Any, object]] | None = None) -> Caller:
    """A caller in the process that has the data folder open: everything is allowed; ``left`` as for :class:`Caller`."""
    grant = RoleGrant(id="owner", principal=actor, role=Role.ADMIN, scope="")
    return Caller(fleet, Rights(actor, (grant,), (), fleet.search), actor, left=left)


def user_of(front_end: str) -> str:
    """The actor of a front end run by the operating system's user: ``library:alice``."""
    try:
        return f"{front_end}:{getpass.getuser()}"
    except (KeyError, OSError, ImportError):  # a user id without a name
        return f"{front_end}:{os.getuid()}" if hasattr(os, "getuid") else front_end


def answered(page: repository.Page[R], show: Callable[[R], T]) -> Page[T]:
    """A page of records as an answer."""
    return Page([show(item) for item in page.items], encode(page.after))


def missing(kind: str, name: str, code: str = "not_found") -> NotFound:
    """The error for what does not exist, and for what the caller may not see."""
    return NotFound(f"{kind_in_words(kind)} {name!r} does not exist", code=code, **{kind: name})
