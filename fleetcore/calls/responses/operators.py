"""Tokens of the operators' API, and who has which role."""

from fleetcore.calls.types import Ms, Response
from fleetcore.model.operator import Permission, Role


class TokenResponse(Response, frozen=True):
    """A token without what it is."""

    id: str
    principal: str
    permissions: list[Permission]
    created: Ms | None
    created_by: str
    expires: Ms | None
    last_used: Ms | None
    revoked: bool


class NewTokenResponse(TokenResponse, frozen=True):
    """A token as it is shown once: ``token`` is None where an answer is repeated. ``roles`` were granted with it."""

    roles: list[Role]
    token: str | None


class RoleResponse(Response, frozen=True):
    """A principal has a role within a scope: ``group:NAME``, a query, or nothing for the whole fleet."""

    id: str
    principal: str
    role: Role
    scope: str
    created: Ms | None
    created_by: str
