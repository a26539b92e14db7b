"""Operators: their tokens and their grants. There is no initial password: the shell's owner makes the first token.

A token is 256 random bits, returned once and stored as SHA-256: it cannot be guessed, and a slow hash on every request
would let requests overload the server. It always expires, after at most a year.

A token's rights are cached from its first use on, and dropped with each change of tokens and grants: all of them are
written in :meth:`Operators._write`. An object that outlives a request holds a :class:`RightsWatch`.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import evolve, frozen

from fleetcore.errors import FleetError, NotAuthenticated, NotFound, Refused
from fleetcore.fleet.lru_cache import LruCache
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.rights import GROUP_SCOPE, Rights, scope_clause
from fleetcore.fleet.search import Search
from fleetcore.fleet.shielding import Shield
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import first_of
from fleetcore.model.days import DAY_MS
from fleetcore.model.names import check_label
from fleetcore.model.operator import OperatorToken, Permission, Role, RoleGrant
from fleetcore.model.store import Commit, Delete, Event
from fleetcore.query.fitting import parse_new

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: ``fc_pat_<id>_<43 characters>``; secret scanners recognise the prefix.
_TOKEN = re.compile(r"fc_pat_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_SECRET_BYTES = 32  # 43 characters of base64url
DEFAULT_DAYS = 90.0
MAX_DAYS = 366.0
#: The precision of the last use: each record of it is a commit.
_USED_MS = 60_000
#: How many tokens have their rights cached; the least recently used go first. Only valid tokens enter.
_REMEMBERED = 10_000
_NOBODY = hashlib.sha256(b"").hexdigest()


@frozen(kw_only=True)
class NewToken:
    """A new token as it is returned once, with its stored record."""

    token: str
    record: OperatorToken


@frozen(kw_only=True)
class _Known:
    """A verified token, and its rights."""

    id: str
    expires: int
    rights: Rights


def _principal(item: OperatorToken | RoleGrant) -> Pairs:
    return [("principal", item.principal)]


class RightsWatch:
    """Watches the token of an event stream, or of a request that waits: whether its rights still hold.

    Made by :meth:`Operators.watch`; a context manager. :meth:`rights` gives the current rights, and :meth:`first` stops
    waiting as soon as they may have changed: a token or grant was written, or the token has expired.
    """

    def __init__(self, operators: "Operators", token: str, clock: Clock) -> None:
        self._operators, self._token, self._clock = operators, token, clock
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        self._operators._watches.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._operators._watches.discard(self)

    def touch(self) -> None:
        """Notes that the rights may have changed."""
        self._changed.set()

    async def rights(self) -> Rights:
        """The token's current rights; raises NotAuthenticated."""
        self._changed.clear()
        return await self._operators.authenticate(self._token)

    async def first(self, *others: Coroutine[Any, Any, object]) -> None:
        """Returns when one of these ends, or the rights may have changed; the others are then cancelled.

        Their results and exceptions are dropped: the caller looks again.
        """
        try:
            await first_of(*others, self._changed.wait(), self._expiry())
        finally:
            self._changed.clear()  # the caller asks for them now

    async def _expiry(self) -> None:
        """Returns when the token expires; at once where it has."""
        with contextlib.suppress(NotAuthenticated):
            left_ms = await self._operators.expires(self._token) - self._clock.now_ms()
            await self._clock.sleep(left_ms / 1000)


class Operators:
    """Makes, verifies and revokes tokens; grants and revokes roles."""

    def __init__(self, storage: Storage, search: Search, clock: Clock) -> None:
        self._storage, self._search, self._clock = storage, search, clock
        self.token_records = Repository(storage, "operator_token", OperatorToken, refs=_principal)
        self.grant_records = Repository(storage, "role_grant", RoleGrant, refs=_principal)
        #: By the SHA-256 of the whole token.
        self._known: LruCache[_Known] = LruCache(_REMEMBERED)
        #: The number of finished writes: data read before one is not cached after it.
        self._writes = 0
        self._watches: set[RightsWatch] = set()
        self._shield = Shield()
        #: Token → its last use, ms, to the minute; and the tokens whose last use :meth:`flush` has yet to write.
        self._used: dict[str, int] = {}
        self._unwritten: set[str] = set()

    async def _write(self, work: Coroutine[Any, Any, T]) -> T:
        """Changes tokens or grants: once committed, nothing read before it stays in the cache.

        This also holds where the caller is cancelled, for the commit is not.
        """
        return await self._shield.run(self._written(work))

    async def _written(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            self._writes += 1
            self._known.clear()
            for watch in self._watches:
                watch.touch()

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
        """A token with the principal's grants; its secret is returned only here.

        Raises:
            Refused: ``name_invalid``; an unknown permission; a lifetime that is not positive or longer than a year.
        """
        check_label(principal, "principal")
        if not 0 < days <= MAX_DAYS:
            raise Refused(f"A token lives up to {MAX_DAYS:g} days, not {days:g}", remedy="Give a number of days")
        now = self._clock.now_ms()
        name, secret = secrets.token_hex(8), secrets.token_urlsafe(_SECRET_BYTES)
        record = OperatorToken(
            id=name,
            principal=principal,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            created=now,
            created_by=actor,
            expires=now + int(days * DAY_MS),
            permissions=tuple(_permission(permission) for permission in permissions),
        )
        event = Event(
            type="operator_token.created",
            subject=name,
            time=now,
            actor=actor,
            reason=reason,
            data={"principal": principal},
        )
        made = await self._write(self.token_records.create(record, [event]))
        return NewToken(token=f"fc_pat_{name}_{secret}", record=made)

    async def tokens(self) -> list[OperatorToken]:
        """All tokens by id, revoked and expired ones too."""
        return [self.with_use(record) for record in await self.token_records.find()]

    async def token(self, token_id: str) -> OperatorToken:
        """One of them; raises NotFound."""
        return self.with_use(await self.token_records.need(token_id))

    def with_use(self, record: OperatorToken) -> OperatorToken:
        """A stored token with its last use, which may not be written yet."""
        used = self._used.get(record.id)
        return record if used is None else evolve(record, last_used=max(used, record.last_used or 0))

    async def revoke_token(self, token_id: str, *, actor: str = "system", reason: str = "") -> OperatorToken:
        """Revokes a token at once. Repeating it changes nothing. Raises NotFound."""
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

        return self.with_use(await self._write(self.token_records.change(token_id, step)))

    async def authenticate(self, token: str) -> Rights:
        """The principal of this token and its current rights; raises NotAuthenticated, always with the same message.

        Reads only: the use of the token is noted in memory and written by :meth:`flush`.
        """
        return (await self._verified(token)).rights

    async def expires(self, token: str) -> int:
        """When the token expires, ms; raises NotAuthenticated."""
        return (await self._verified(token)).expires

    def watch(self, token: str) -> RightsWatch:
        """A :class:`RightsWatch`, for an object that outlives a request."""
        return RightsWatch(self, token, self._clock)

    async def _verified(self, token: str) -> _Known:
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        if known is None:
            while True:
                writes = self._writes
                known = await self._looked_up(token)
                if writes == self._writes:
                    break
            self._known.put(key, known)
        now = self._clock.now_ms()
        if known.expires <= now:
            raise _unknown()
        used = self._used.get(known.id)
        if used is None or now - used >= _USED_MS:
            self._used[known.id] = now
            self._unwritten.add(known.id)
        return known

    async def _looked_up(self, token: str) -> _Known:
        match = _TOKEN.fullmatch(token)
        record = await self.token_records.get(match[1]) if match else None
        digest = hashlib.sha256(match[2].encode() if match else b"?").hexdigest()
        fits = hmac.compare_digest(digest, record.sha256 if record is not None else _NOBODY)
        if record is None or not fits or record.revoked or record.expires <= self._clock.now_ms():
            raise _unknown()
        grants = await self.grant_records.find(ref=("principal", record.principal))
        if record.last_used is not None:
            self._used.setdefault(record.id, record.last_used)
        rights = Rights(record.principal, grants, record.permissions, self._search)
        return _Known(id=record.id, expires=record.expires, rights=rights)

    async def flush(self) -> None:
        """Writes when tokens were used; what cannot be written now, as on a full disk, is retried next time."""
        for name in sorted(self._unwritten):
            used = self._used[name]
            self._unwritten.discard(name)

            def step(old: OperatorToken, used: int = used) -> tuple[OperatorToken, list[Event]] | None:
                return None if old.revoked or (old.last_used or 0) >= used else (evolve(old, last_used=used), [])

            try:
                await self.token_records.change(name, step)
            except NotFound:
                self._used.pop(name, None)
            except FleetError as error:
                self._unwritten.add(name)
                _log.warning("The last use of tokens cannot be written now: %s", error)
                return

    # --- roles ---------------------------------------------------------------------------------------------------

    async def grant(
        self, principal: str, role: str, *, scope: str = "", actor: str = "system", reason: str = ""
    ) -> RoleGrant:
        """Grants a role within a scope: ``group:NAME``, a fleet query, or nothing for the whole fleet.

        The same grant again returns the existing one. Raises Refused for an unknown role, QuerySyntaxError for an
        invalid query.
        """
        check_label(principal, "principal")
        try:
            wanted = Role(role)
        except ValueError as error:
            raise Refused(f"Role {role!r} does not exist", remedy=f"Roles: {', '.join(Role)}") from error
        scope_clause(scope)
        if scope and not scope.startswith(GROUP_SCOPE):
            parse_new(scope)
        for held in await self.grant_records.find(ref=("principal", principal)):
            if (held.role, held.scope) == (wanted, scope):
                return held
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
        return await self._write(self.grant_records.create(made, [event]))

    async def grants(self, principal: str | None = None) -> list[RoleGrant]:
        """All grants, or those of one principal."""
        return await self.grant_records.find(ref=None if principal is None else ("principal", principal))

    async def withdraw(self, grant: str, *, actor: str = "system", reason: str = "") -> None:
        """Revokes a grant: from now on its principal acts without it, also in open streams.

        Raises NotFound.
        """
        old = await self.grant_records.need(grant)
        event = Event(
            type="role.withdrawn",
            subject=old.principal,
            time=self._clock.now_ms(),
            actor=actor,
            reason=reason,
            data={"grant": grant, "role": old.role.value, "scope": old.scope},
        )
        commit = Commit(deletes=(Delete(kind="role_grant", key=grant),), events=(event,))
        await self._write(self._storage.commit(commit))


def _unknown() -> NotAuthenticated:
    return NotAuthenticated("The token is unknown, expired or revoked", remedy="`fleetcore token create` makes one")


def _permission(name: str) -> Permission:
    try:
        return Permission(name)
    except ValueError as error:
        raise Refused(f"Permission {name!r} does not exist", remedy=f"Permissions: {', '.join(Permission)}") from error
