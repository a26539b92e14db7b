"""Tokens of the operators' API, and grants of roles."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.operator import Permission, Role


class TokenResponse(Response, frozen=True):
    """A token without its secret."""

    id: str
    principal: str
    permissions: list[Permission]
    created: Ms | None
    created_by: str
    expires: Ms | None
    last_used: Ms | None
    revoked: bool


class NewTokenResponse(TokenResponse, frozen=True):
    """A new token, returned once: ``token`` is None where an answer is repeated. ``roles`` were granted with it."""

    roles: list[Role]
    token: str | None


class RoleResponse(Response, frozen=True):
    """A grant of a role to a principal within a scope: ``group:NAME``, a query, or nothing for the whole fleet."""

    id: str
    principal: str
    role: Role
    scope: str
    created: Ms | None
    created_by: str
