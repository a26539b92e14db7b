"""Operators: tokens of the API, and roles within a scope."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, answered
from fleetcore.calls.cursors import decode
from fleetcore.calls.responses.operators import NewTokenResponse, RoleResponse, TokenResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Cursor, Label, Limit, Names, Page, Reason, Word, to_response
from fleetcore.fleet.operators import MAX_DAYS
from fleetcore.model.operator import Permission, Role

Principal = Annotated[Label, Meta(description="The person or program, by name.")]
GrantedRole = Annotated[Role, Meta(description="The role to grant.")]
Roles = Annotated[Sequence[Role], Meta(max_length=len(Role), description="A role to grant to it."), Word("role")]
RoleScope = Annotated[
    str, Meta(max_length=4096, description="The scope, group:NAME or a query; without one, the whole fleet.")
]
TokenDays = Annotated[float, Meta(gt=0, le=MAX_DAYS, description="The token's lifetime, up to 366 days.")]
Permissions = Annotated[
    Sequence[Permission], Meta(max_length=len(Permission), description="Limit the token to these."), Word("permission")
]
TokenId = Annotated[
    str, Meta(min_length=1, max_length=128, description="The token's id."), Names("list_tokens", short=True)
]
GrantId = Annotated[
    str,
    Meta(min_length=1, max_length=128, description="The grant's id, from the list."),
    Names("list_roles", short=True),
]


@call(
    "GET /tokens", Permission.OPERATORS_WRITE, cli="token list",
    columns=("id", "principal", "created", "expires", "last_used", "revoked"),
)  # fmt: skip
async def list_tokens(caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None) -> Page[TokenResponse]:
    """Lists tokens with principal, expiry and last use; revoked and expired ones too."""
    operators = caller.fleet.operators
    found = await operators.token_records.page(after=decode(cursor), limit=limit)
    return answered(found, lambda token: to_response(TokenResponse, operators.with_use(token)))


@call("POST /tokens", Permission.OPERATORS_WRITE, cli="token create PRINCIPAL", status=201, secret_fields=("token",))
async def create_token(
    caller: Caller,
    principal: Principal,
    roles: Roles = (),
    *,
    scope: RoleScope = "",
    days: TokenDays = 90.0,
    permissions: Permissions = (),
    reason: Reason = "",
) -> NewTokenResponse:
    """Makes a token for a principal, and grants roles to it; the token is returned only this once.

    Its rights are the principal's, limited to ``permissions`` if given.

    Raises:
        QuerySyntaxError: the scope is neither a group nor a query.
    """
    operators = caller.fleet.operators
    for role in roles:
        await operators.grant(principal, role, scope=scope, actor=caller.actor, reason=reason)
    made = await operators.create_token(
        principal, days=days, permissions=permissions, actor=caller.actor, reason=reason
    )
    return to_response(NewTokenResponse, made.record, token=made.token, roles=list(roles))


@call("GET /tokens/{token_id}", Permission.OPERATORS_WRITE, cli="token show TOKEN_ID")
async def get_token(caller: Caller, token_id: TokenId) -> TokenResponse:
    """Shows a token by its id, without the token itself.

    Raises:
        NotFound: there is no such token.
    """
    return to_response(TokenResponse, await caller.fleet.operators.token(token_id))


@call(
    "DELETE /tokens/{token_id}", Permission.OPERATORS_WRITE, cli="token revoke TOKEN_ID", status=204,
    confirm="Ends the token {token_id} for good.",
)  # fmt: skip
async def revoke_token(caller: Caller, token_id: TokenId, *, reason: Reason = "") -> None:
    """Revokes a token at once. Repeating it changes nothing.

    Raises:
        NotFound: there is no such token.
    """
    await caller.fleet.operators.revoke_token(token_id, actor=caller.actor, reason=reason)


@call(
    "GET /roles", Permission.OPERATORS_WRITE, cli="token roles PRINCIPAL",
    columns=("id", "principal", "role", "scope", "created", "created_by"),
)  # fmt: skip
async def list_roles(
    caller: Caller, principal: Principal | None = None, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[RoleResponse]:
    """Lists grants of roles with scope and grantor, of one principal or of all."""
    ref = None if principal is None else ("principal", principal)
    found = await caller.fleet.operators.grant_records.page(ref=ref, after=decode(cursor), limit=limit)
    return answered(found, lambda grant: to_response(RoleResponse, grant))


@call("POST /roles", Permission.OPERATORS_WRITE, cli="token grant PRINCIPAL ROLE", status=201)
async def grant_role(
    caller: Caller, principal: Principal, role: GrantedRole, *, scope: RoleScope = "", reason: Reason = ""
) -> RoleResponse:
    """Grants a role to a principal; all its tokens have the role from the next request on.

    The same grant again returns the existing one.

    Raises:
        QuerySyntaxError: the scope is neither a group nor a query.
    """
    made = await caller.fleet.operators.grant(principal, role, scope=scope, actor=caller.actor, reason=reason)
    return to_response(RoleResponse, made)


@call("DELETE /roles/{grant_id}", Permission.OPERATORS_WRITE, cli="token withdraw GRANT_ID", status=204)
async def revoke_role(caller: Caller, grant_id: GrantId, *, reason: Reason = "") -> None:
    """Revokes a role by the id of its grant, which ``list_roles`` and `token roles` list.

    Raises:
        NotFound: there is no such grant.
    """
    await caller.fleet.operators.withdraw(grant_id, actor=caller.actor, reason=reason)
