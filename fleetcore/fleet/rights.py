"""Rights: what a principal may do, decided per object.

A grant is a role within a scope. Each grant is checked separately for a permission on a device; the rights of two
grants never combine, so "may command" in one place and "may see" in another do not add up to a third right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from fleetcore.errors import NotFound, Refused
from fleetcore.fleet.search import NOTHING, Search
from fleetcore.model.events import EventType, Subject
from fleetcore.model.names import is_device_id
from fleetcore.model.operator import ROLES, Permission, RoleGrant
from fleetcore.query.ast import And, Clause, Or
from fleetcore.query.parse import parse

#: The beginning of a scope that is a group's name.
GROUP_SCOPE = "group:"


def scope_clause(scope: str) -> Clause | None:
    """A grant's scope as a clause, None for the whole fleet; raises QuerySyntaxError."""
    if not scope:
        return None
    if scope.startswith(GROUP_SCOPE):
        name = scope.removeprefix(GROUP_SCOPE).replace("'", "''")
        return parse(f"group in ('{name}')")
    return parse(scope)


@frozen(kw_only=True)
class Selectable:
    """What a principal may list: ``clause`` None selects the whole fleet; ``nothing`` selects nothing."""

    clause: Clause | None = None
    nothing: bool = False

    def narrowed(self, where: Clause | None) -> Clause | None:
        """This combined with a query; ``nothing`` stays so with any query."""
        if self.nothing:
            return NOTHING
        if self.clause is None:
            return where
        return self.clause if where is None else And((self.clause, where))


class Rights:
    """The rights of one principal, by its current tokens and grants."""

    def __init__(
        self, principal: str, grants: Sequence[RoleGrant], permissions: Sequence[Permission], search: Search
    ) -> None:
        self.principal = principal
        self._search = search
        limit = frozenset(permissions) or frozenset(Permission)
        self._grants = [(ROLES[grant.role] & limit, grant.scope) for grant in grants]

    @property
    def actor(self) -> str:
        """The name recorded with changes; device ids never contain a colon."""
        return f"operator:{self.principal}"

    def holds(self, permission: Permission) -> bool:
        """Whether some grant has it, within any scope."""
        return any(permission in allowed for allowed, _ in self._grants)

    def everywhere(self, permission: Permission) -> bool:
        """Whether one grant has it for the whole fleet, as required for objects without a device."""
        return any(permission in allowed and not scope for allowed, scope in self._grants)

    def named_groups(self, permission: Permission) -> frozenset[str]:
        """Groups that are the scope of a grant that has it."""
        return frozenset(
            scope.removeprefix(GROUP_SCOPE)
            for allowed, scope in self._grants
            if permission in allowed and scope.startswith(GROUP_SCOPE)
        )

    async def allows(self, permission: Permission, device: str) -> bool:
        """Whether one grant allows it on a device; a grant with a scope allows nothing on an unregistered device."""
        for allowed, scope in self._grants:
            if permission not in allowed:
                continue
            if scope.startswith(GROUP_SCOPE):
                # From memory: it is checked for each device of a long list.
                if scope.removeprefix(GROUP_SCOPE) in self._search.documents.groups_of(device):
                    return True
                continue
            clause = _readable(scope)
            if clause is None:
                if not scope:
                    return True
                continue
            try:
                if await self._search.is_true(clause, device):
                    return True
            except NotFound:
                continue
        return False

    def to_plain(self) -> list[list[object]]:
        """The grants as plain data, for a later :meth:`include`."""
        return [[scope, sorted(allowed)] for allowed, scope in self._grants]

    def include(self, earlier: Sequence[Sequence[Any]]) -> bool:
        """Whether each grant of earlier rights is covered by one of these: in its scope or everywhere."""
        return all(
            any(allowed.issuperset(permissions) and held in ("", scope) for allowed, held in self._grants)
            for scope, permissions in earlier
        )

    @property
    def administers(self) -> bool:
        """Whether it has every permission, each for the whole fleet."""
        return all(self.everywhere(permission) for permission in Permission)

    async def sees(self, kind: EventType | None, subject: str, data: Mapping[str, object]) -> bool:
        """Whether it may see an event of a type, by the event's subject and data.

        None stands for an undeclared type: only administrators see these.
        """
        if kind is None or kind.permission is None:
            return self.administers
        if self.everywhere(kind.permission):
            return True
        if kind.subject is Subject.GROUP:
            return subject in self.named_groups(kind.permission)
        device = kind.device_in(subject, data)
        return device is not None and is_device_id(device) and await self.allows(kind.permission, device)

    def selectable(self, permission: Permission) -> Selectable:
        """The devices on which it is allowed."""
        if self.everywhere(permission):
            return Selectable()
        found = [_readable(scope) for allowed, scope in self._grants if permission in allowed]
        clauses = tuple(item for item in found if item is not None)
        if not clauses:
            return Selectable(nothing=True)
        return Selectable(clause=clauses[0] if len(clauses) == 1 else Or(clauses))


def _readable(scope: str) -> Clause | None:
    # Fail closed: a scope that does not parse (a newer release wrote it) selects nothing.
    try:
        return scope_clause(scope)
    except Refused:
        return None
