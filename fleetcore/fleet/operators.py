"""Operators: their tokens and their grants. There is no first password: the shell's owner makes the first token.

A token is 256 random bits, shown once and kept as SHA-256: nobody guesses it, and a slow hash on every request would
be a way to keep the server busy. It always ends; the longest life is a year.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from attrs import evolve, frozen

from fleetcore.errors import NotAuthenticated, Refused
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.rights import Rights, scope_clause
from fleetcore.fleet.search import Search
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.names import check_label
from fleetcore.model.operator import OperatorToken, Permission, Role, RoleGrant
from fleetcore.model.store import Commit, Delete, Event

#: ``fc_pat_<id>_<43 characters>``; secret scanners know it by its prefix.
_TOKEN = re.compile(r"fc_pat_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_SECRET_BYTES = 32  # 43 characters of base64url
_DAY_MS = 86_400_000
DEFAULT_DAYS = 90.0
LONGEST_DAYS = 366.0
#: How exactly the last use is known: each note of it is a commit.
_USED_MS = 60_000
_NOBODY = hashlib.sha256(b"").hexdigest()


@frozen(kw_only=True)
class NewToken:
    """A token as it is shown once, with what is kept of it."""

    token: str
    record: OperatorToken


def _principal(item: OperatorToken | RoleGrant) -> Pairs:
    return [("principal", item.principal)]


class Operators:
    """Makes, verifies and revokes tokens; gives and takes roles."""

    def __init__(self, storage: Storage, search: Search, clock: Clock) -> None:
        self._storage, self._search, self._clock = storage, search, clock
        self.token_records = Repository(storage, "operator_token", OperatorToken, refs=_principal)
        self.grant_records = Repository(storage, "role_grant", RoleGrant, refs=_principal)

    # --- tokens --------------------------------------------------------------------------------------------------

    async def create_token(
        self,
        principal: str,
        *,
        days: float = DEFAULT_DAYS,
        permissions: Sequence[str] = (),
        actor: str = "system",
        reason: str = "",
    ) -> NewToken:
        """A token that carries the principal's grants; the only time that it is seen.

        Raises:
            Refused: ``name_invalid``; an unknown permission; a life that is not positive or longer than a year.
        """
        check_label(principal, "principal")
        if not 0 < days <= LONGEST_DAYS:
            raise Refused(f"A token lives up to {LONGEST_DAYS:g} days, not {days:g}", remedy="Give a number of days")
        now = self._clock.now_ms()
        name, secret = secrets.token_hex(8), secrets.token_urlsafe(_SECRET_BYTES)
        record = OperatorToken(
            id=name,
            principal=principal,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            created=now,
            created_by=actor,
            expires=now + int(days * _DAY_MS),
            permissions=tuple(_permission(one) for one in permissions),
        )
        event = Event(
            type="operator_token.created",
            subject=name,
            time=now,
            actor=actor,
            reason=reason,
            data={"principal": principal},
        )
        return NewToken(token=f"fc_pat_{name}_{secret}", record=await self.token_records.create(record, [event]))

    async def tokens(self) -> list[OperatorToken]:
        """All tokens by id, revoked and expired ones too."""
        return await self.token_records.find()

    async def token(self, token_id: str) -> OperatorToken:
        """One of them; raises NotFound."""
        return await self.token_records.need(token_id)

    async def revoke_token(self, token_id: str, *, actor: str = "system", reason: str = "") -> OperatorToken:
        """Ends a token at once; ending it again does nothing. Raises NotFound."""
        now = self._clock.now_ms()

        def step(old: OperatorToken) -> tuple[OperatorToken, list[Event]] | None:
            if old.revoked:
                return None
            event = Event(
                type="operator_token.revoked",
                subject=token_id,
                time=now,
                actor=actor,
                reason=reason,
                data={"principal": old.principal},
            )
            return evolve(old, revoked=True), [event]

        return await self.token_records.change(token_id, step)

    async def authenticate(self, token: str) -> Rights:
        """Who shows this token and what they may do now; raises NotAuthenticated, always in the same words."""
        match = _TOKEN.fullmatch(token)
        record = await self.token_records.get(match[1]) if match else None
        shown = hashlib.sha256(match[2].encode() if match else b"?").hexdigest()
        now = self._clock.now_ms()
        fits = hmac.compare_digest(shown, record.sha256 if record is not None else _NOBODY)
        if record is None or not fits or record.revoked or record.expires <= now:
            raise NotAuthenticated(
                "The token is unknown, expired or revoked", remedy="`fleetcore token create` makes one"
            )
        if record.last_used is None or now - record.last_used >= _USED_MS:
            await self.token_records.change(
                record.id, lambda old: None if old.revoked else (evolve(old, last_used=now), [])
            )
        grants = await self.grant_records.find(ref=("principal", record.principal))
        return Rights(record.principal, grants, record.permissions, self._search)

    # --- roles ---------------------------------------------------------------------------------------------------

    async def grant(
        self, principal: str, role: str, *, scope: str = "", actor: str = "system", reason: str = ""
    ) -> RoleGrant:
        """Gives a role within a scope: ``group:NAME``, a fleet query, or nothing for the whole fleet.

        The same grant again is the one that is there. Raises Refused for no role, QuerySyntaxError for no query.
        """
        check_label(principal, "principal")
        try:
            wanted = Role(role)
        except ValueError as error:
            raise Refused(f"There is no role {role!r}", remedy=f"Roles: {', '.join(Role)}") from error
        scope_clause(scope)
        for one in await self.grant_records.find(ref=("principal", principal)):
            if (one.role, one.scope) == (wanted, scope):
                return one
        now = self._clock.now_ms()
        made = RoleGrant(
            id=secrets.token_hex(8), principal=principal, role=wanted, scope=scope, created=now, created_by=actor
        )
        event = Event(
            type="role.granted",
            subject=principal,
            time=now,
            actor=actor,
            reason=reason,
            data={"grant": made.id, "role": wanted.value, "scope": scope},
        )
        return await self.grant_records.create(made, [event])

    async def grants(self, principal: str | None = None) -> list[RoleGrant]:
        """All grants, or those of one principal."""
        return await self.grant_records.find(ref=None if principal is None else ("principal", principal))

    async def withdraw(self, grant: str, *, actor: str = "system", reason: str = "") -> None:
        """Takes a grant back; the next request of its principal is without it. Raises NotFound."""
        old = await self.grant_records.need(grant)
        event = Event(
            type="role.withdrawn",
            subject=old.principal,
            time=self._clock.now_ms(),
            actor=actor,
            reason=reason,
            data={"grant": grant, "role": old.role.value, "scope": old.scope},
        )
        await self._storage.commit(Commit(deletes=(Delete(kind="role_grant", key=grant),), events=(event,)))


def _permission(name: str) -> Permission:
    try:
        return Permission(name)
    except ValueError as error:
        raise Refused(f"There is no permission {name!r}", remedy=f"Permissions: {', '.join(Permission)}") from error
