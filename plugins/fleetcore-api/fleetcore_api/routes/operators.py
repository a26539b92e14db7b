"""Tokens and roles of operators, and the audit log."""

from typing import Annotated

from litestar import Response, delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from fleetcore.fleet.audit import row_key
from fleetcore.model.operator import Permission
from fleetcore.runtime.status import status
from fleetcore_api.models import Json, shown
from fleetcore_api.models_trust import (
    AuditOut,
    GrantIn,
    GrantOut,
    InstanceOut,
    NewTokenOut,
    PluginOut,
    TokenIn,
    TokenOut,
    VerdictOut,
    VerifyIn,
)
from fleetcore_api.pages import Cursor, Limit, Page, answered, decode
from fleetcore_api.parameters import Caller, Why

_Name = Annotated[str | None, QueryParameter(max_length=256)]


@get("/tokens", permission=Permission.OPERATORS_WRITE, everywhere=True)
async def list_tokens(access: Caller, limit: Limit = 100, cursor: Cursor = None) -> Page[TokenOut]:
    """Tokens by id, revoked and expired ones too."""
    operators = access.fleet.operators
    found = await operators.token_records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda token: shown(TokenOut, operators.with_use(token)))


@post("/tokens", permission=Permission.OPERATORS_WRITE, everywhere=True)
async def create_token(access: Caller, data: JSONBody[TokenIn]) -> Response[NewTokenOut]:
    """Makes a token; this answer alone shows it."""
    made = await access.fleet.operators.create_token(
        data.principal, days=data.days, permissions=data.permissions, actor=access.actor, reason=data.reason
    )
    body = shown(NewTokenOut, made.record, token=made.token)
    return Response(body, status_code=201, headers={"Cache-Control": "no-store"})


@get("/tokens/{token:str}", permission=Permission.OPERATORS_WRITE, everywhere=True)
async def get_token(access: Caller, token: FromPath[str]) -> TokenOut:
    """One token, by its id."""
    return shown(TokenOut, await access.fleet.operators.token(token))


@delete("/tokens/{token:str}", permission=Permission.OPERATORS_WRITE, everywhere=True, status_code=204)
async def revoke_token(access: Caller, token: FromPath[str], reason: Why = "") -> None:
    """Ends a token at once."""
    await access.fleet.operators.revoke_token(token, actor=access.actor, reason=reason)


@get("/roles", permission=Permission.OPERATORS_WRITE, everywhere=True)
async def list_roles(
    access: Caller, principal: _Name = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[GrantOut]:
    """Who has which role within which scope."""
    ref = None if principal is None else ("principal", principal)
    found = await access.fleet.operators.grant_records.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, lambda grant: shown(GrantOut, grant))


@post("/roles", permission=Permission.OPERATORS_WRITE, everywhere=True)
async def grant_role(access: Caller, data: JSONBody[GrantIn]) -> GrantOut:
    """Gives a role within a scope; the same grant again is the one that is there."""
    made = await access.fleet.operators.grant(
        data.principal, data.role, scope=data.scope, actor=access.actor, reason=data.reason
    )
    return shown(GrantOut, made)


@delete("/roles/{grant:str}", permission=Permission.OPERATORS_WRITE, everywhere=True, status_code=204)
async def withdraw_role(access: Caller, grant: FromPath[str], reason: Why = "") -> None:
    """Takes a grant back."""
    await access.fleet.operators.withdraw(grant, actor=access.actor, reason=reason)


@get("/audit", permission=Permission.AUDIT_READ, everywhere=True)
async def list_audit(
    access: Caller,
    object: _Name = None,
    actor: _Name = None,
    since: Annotated[int, QueryParameter(name="after", ge=0, le=2**53, description="Begin after this row.")] = 0,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AuditOut]:
    """Rows of the audit log in their order."""
    after = decode(cursor) or row_key(since)
    rows = await access.fleet.audit.page(object=object, actor=actor, after=after, limit=limit)
    return answered(rows, lambda row: shown(AuditOut, row))


@post("/audit/verify", permission=Permission.AUDIT_READ, everywhere=True, status_code=200)
async def verify_audit(access: Caller, data: JSONBody[VerifyIn]) -> VerdictOut:
    """Recomputes every hash and compares with signed checkpoints: those sent, else those that the server keeps."""
    fleet = access.fleet
    await fleet.settle()
    lines = None if data.checkpoints is None else [line.encode() for line in data.checkpoints]
    return shown(VerdictOut, await fleet.audit.verify(fleet.security.signing_keys(), lines))


@get("/status", permission=Permission.SERVER_READ, everywhere=True)
async def server_status(access: Caller) -> Json:
    """What runs: protocols, queue, where readings went, consumers and where they are, failed tasks, plugins."""
    return await status(access.fleet)


@get("/detectors", permission=Permission.SERVER_READ, everywhere=True)
async def list_detectors(access: Caller) -> Page[InstanceOut]:
    """Configured detectors; fleet.toml says which there are."""
    return Page(items=[shown(InstanceOut, one) for one in access.fleet.config.detectors], next=None)


@get("/notifiers", permission=Permission.SERVER_READ, everywhere=True)
async def list_notifiers(access: Caller) -> Page[InstanceOut]:
    """Configured notifiers; fleet.toml says which there are."""
    return Page(items=[shown(InstanceOut, one) for one in access.fleet.config.notifiers], next=None)


@get("/plugins", permission=Permission.SERVER_READ, everywhere=True)
async def list_plugins(access: Caller) -> Page[PluginOut]:
    """Installed plugins; they are installed in a shell, never from here."""
    return Page(items=[shown(PluginOut, one) for one in access.fleet.host.plugins.values()], next=None)


HANDLERS = [
    list_tokens,
    create_token,
    get_token,
    revoke_token,
    list_roles,
    grant_role,
    withdraw_role,
    list_audit,
    list_plugins,
    verify_audit,
    server_status,
    list_detectors,
    list_notifiers,
]
