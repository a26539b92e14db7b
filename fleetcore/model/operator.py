"""Operators: who may do what to which devices. A role is a set of permissions; a grant gives it within a scope."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import field, frozen


class Role(StrEnum):
    """The task of a person or a program."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    PROVISIONER = "provisioner"
    RELEASE = "release"
    DEPLOYER = "deployer"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Permission(StrEnum):
    """One action that can be allowed. Without ``read`` on a device, it does not exist for the caller."""

    DEVICES_READ = "devices:read"
    DEVICES_WRITE = "devices:write"
    DEVICES_ERASE = "devices:erase"
    TELEMETRY_WRITE = "telemetry:write"
    GROUPS_READ = "groups:read"
    GROUPS_WRITE = "groups:write"
    TWINS_WRITE = "twins:write"
    COMMANDS_SEND = "commands:send"
    CAMPAIGNS_READ = "campaigns:read"
    CAMPAIGNS_WRITE = "campaigns:write"
    FIRMWARE_WRITE = "firmware:write"
    FIRMWARE_TRUST = "firmware:trust"
    SECURITY_READ = "security:read"
    SECURITY_WRITE = "security:write"
    CA_WRITE = "ca:write"
    QUARANTINE_READ = "quarantine:read"
    QUARANTINE_WRITE = "quarantine:write"
    SERVER_READ = "server:read"
    SERVER_WRITE = "server:write"
    AUDIT_READ = "audit:read"
    OPERATORS_WRITE = "operators:write"


_LOOK = frozenset({Permission.DEVICES_READ, Permission.GROUPS_READ, Permission.CAMPAIGNS_READ})

#: The table of all roles.
ROLES: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.VIEWER: _LOOK,
        Role.OPERATOR: _LOOK
        | {
            Permission.TWINS_WRITE,
            Permission.COMMANDS_SEND,
            Permission.QUARANTINE_READ,
            Permission.QUARANTINE_WRITE,
            Permission.SERVER_READ,
        },
        Role.PROVISIONER: _LOOK
        | {
            Permission.DEVICES_WRITE,
            Permission.TELEMETRY_WRITE,
            Permission.GROUPS_WRITE,
            Permission.TWINS_WRITE,
            Permission.SECURITY_READ,
            Permission.SECURITY_WRITE,
        },
        Role.RELEASE: frozenset({Permission.CAMPAIGNS_READ, Permission.FIRMWARE_WRITE}),
        Role.DEPLOYER: _LOOK | {Permission.CAMPAIGNS_WRITE},
        Role.AUDITOR: _LOOK
        | {
            Permission.AUDIT_READ,
            Permission.SECURITY_READ,
            Permission.QUARANTINE_READ,
            Permission.SERVER_READ,
        },
        Role.ADMIN: frozenset(Permission),
    }
)


@frozen(kw_only=True)
class OperatorToken:
    """A bearer token of the operators' API as it is stored: its hash, never the token. Times are ms since the epoch.

    Attributes:
        principal: whose grants it has.
        permissions: the permissions that this token may use; empty for all of the principal's.
        last_used: in whole minutes.
    """

    id: str
    principal: str
    sha256: str = field(repr=False)
    created: int
    created_by: str
    expires: int
    permissions: tuple[Permission, ...] = ()
    last_used: int | None = None
    revoked: bool = False
    version: int = 0


@frozen(kw_only=True)
class RoleGrant:
    """A principal has a role within a scope: a fleet query, or an empty text for the whole fleet."""

    id: str
    principal: str
    role: Role
    scope: str = ""
    created: int = 0
    created_by: str = ""
    version: int = 0
