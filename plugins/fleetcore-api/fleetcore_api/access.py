"""Rights at the door and on each object.

Every route names the permission it needs. The door asks whether the caller has it anywhere; the handler asks again for
the object in hand. What somebody may not see does not exist for them: the answer is that of an unknown id, 404.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from fleetcore.calls.cursors import decode, encode
from fleetcore.errors import FleetError, NotAuthorised, NotFound
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.rights import Rights
from fleetcore.model.audit import AuditRow
from fleetcore.model.operator import Permission
from fleetcore_api.pages import Page, answered
from fleetcore_api.site import Site

T = TypeVar("T")
R = TypeVar("R", bound=attrs.AttrsInstance)
#: How many records a page looks at for a caller who may see some devices only.
SCAN = 2000
_AT_ONCE = 200
ApiRequest = Request[Rights, Any, Any]


class Access:
    """One caller's way to the fleet, with the rights of its token as of now; ``still`` and ``again`` ask anew."""

    def __init__(self, site: Site, rights: Rights, token: str = "") -> None:
        self.site, self.fleet, self.rights, self.token = site, site.fleet, rights, token

    @property
    def actor(self) -> str:
        """Under whose name changes are written down."""
        return self.rights.actor

    async def again(self) -> "Access":
        """The same caller with the rights that its token has by now; raises NotAuthenticated."""
        return Access(self.site, await self.fleet.operators.authenticate(self.token), self.token)

    async def still(self, permission: Permission, device: str | None = None) -> None:
        """Asks again in the midst of what takes long: for a device, or for the whole fleet without one.

        Raises NotAuthenticated, NotAuthorised, NotFound.
        """
        now = await self.again()
        if device is None:
            now.wide(permission, "what was begun")
        elif not now.rights.holds(permission):
            raise now.denied(permission, device)
        else:
            await now.device(device, permission)

    async def device(self, device: str, permission: Permission = Permission.DEVICES_READ) -> str:
        """The id, where the caller has the permission on it. Raises NotFound, NotAuthorised."""
        if await self.rights.allows(permission, device):
            if await self.fleet.devices.find(device) is not None:
                return device
        elif await self.fleet.devices.find(device) is not None:
            if await self.rights.allows(Permission.DEVICES_READ, device):
                raise self.denied(permission, device)
            self.note(permission, device)
        raise missing("device", device)

    async def page(
        self,
        records: Repository[R],
        device_of: Callable[[R], str],
        show: Callable[[R], T],
        cursor: str | None,
        limit: int,
        *,
        ref: tuple[str, str] | None = None,
        newest: bool = False,
        permission: Permission = Permission.DEVICES_READ,
    ) -> Page[T]:
        """The next records of devices on which the caller has the permission.

        For a caller whose rights end somewhere at most :data:`SCAN` records are looked at: the page may be short.
        """
        after = decode(cursor)
        if self.rights.everywhere(permission):
            return answered(await records.page(ref=ref, after=after, limit=limit, newest=newest), show)
        known: dict[str, bool] = {}
        kept: list[R] = []
        for _ in range(SCAN // _AT_ONCE):
            found = await records.page(ref=ref, after=after, limit=_AT_ONCE, newest=newest)
            for record in found.items:
                device = device_of(record)
                if device not in known:
                    known[device] = await self.rights.allows(permission, device)
                if not known[device]:
                    continue
                if len(kept) == limit:
                    return Page(items=[show(item) for item in kept], next=encode(records.place(kept[-1])))
                kept.append(record)
            after = found.after
            if after is None:
                break
        return Page(items=[show(item) for item in kept], next=encode(after))

    async def allowed(self, devices: Iterable[str], permission: Permission) -> frozenset[str]:
        """Those of some devices on which the caller has the permission."""
        if self.rights.everywhere(permission):
            return frozenset(devices)
        return frozenset([device for device in devices if await self.rights.allows(permission, device)])

    async def item(self, device: str, kind: str, name: str, permission: Permission, code: str = "not_found") -> None:
        """What belongs to a device: there for who may see the device, open to who has the permission on it."""
        if await self.rights.allows(permission, device):
            return
        if await self.rights.allows(Permission.DEVICES_READ, device):
            raise self.denied(permission, name)
        self.note(permission, name)
        raise missing(kind, name, code)

    async def rows(self, rows: Sequence[AuditRow]) -> list[AuditRow]:
        """The rows of the audit log that tell of events that the caller may see."""
        known: dict[tuple[str, str], bool] = {}
        for row in rows:
            key = (row.action, row.object)
            if key not in known:
                known[key] = await self.rights.sees(self.fleet.events.find(row.action), row.object, {})
        return [row for row in rows if known[row.action, row.object]]

    def wide(self, permission: Permission, what: str) -> None:
        """Asks for the permission for the whole fleet, about something that the caller sees. Raises NotAuthorised."""
        if not self.rights.everywhere(permission):
            raise self.denied(permission, what, wide=True)

    def denied(self, permission: Permission, what: str, *, wide: bool = False) -> FleetError:
        """The refusal, written down; ``wide``: it is needed for the whole fleet."""
        self.note(permission, what)
        needed = f"{permission.value} for the whole fleet" if wide else permission.value
        return NotAuthorised(f"This needs {needed}", remedy="An admin grants roles", permission=permission)

    def note(self, permission: Permission, what: str) -> None:
        """Has a denial written to the audit log."""
        self.fleet.denials.note(self.actor, what, "not_authorised", permission=permission.value)


def missing(kind: str, name: str, code: str = "not_found") -> NotFound:
    """One sentence for what does not exist and for what is not to be seen."""
    return NotFound(f"There is no {kind} {name!r}", code=code, **{kind: name})


def door(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of every route: closed unless the route says what it needs and the caller has it."""
    if handler.opt.get("open"):
        return
    permission = handler.opt.get("permission")
    rights: Rights = connection.scope["user"]
    everywhere = handler.opt.get("everywhere", False)
    if isinstance(permission, Permission) and (
        rights.everywhere(permission) if everywhere else rights.holds(permission)
    ):
        return
    raise Access(connection.app.state.site, rights).denied(
        permission or Permission.OPERATORS_WRITE, connection.scope["path"][:256], wide=everywhere
    )
