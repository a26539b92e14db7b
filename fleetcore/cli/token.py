"""``fleetcore token``: who may use the operators' API. Who owns the data folder makes the first one."""

import click

from fleetcore.cli.connect import Target, call, fleet_option
from fleetcore.cli.numbers import Number
from fleetcore.cli.output import output_option, show
from fleetcore.model.operator import Permission, Role


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the operators' API."""


@token.command()
@click.argument("principal")
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice([one.value for one in Role]),
    help="Grant this role; may be repeated.",
)
@click.option("--scope", default="", help="Grant it for group:NAME or a query; without, for the whole fleet.")
@click.option(
    "--days",
    type=Number(0, min_open=True),
    default=90.0,
    show_default=True,
    help="How long the token lives, up to 366 days.",
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice([one.value for one in Permission]),
    help="Limit this token to these.",
)
@click.option("--reason", default="", help="Why, for the audit log.")
@fleet_option
@output_option
def create(
    principal: str,
    roles: tuple[str, ...],
    scope: str,
    days: float,
    permissions: tuple[str, ...],
    reason: str,
    at: Target,
    output: str,
) -> None:
    """Make a token for PRINCIPAL, a person or a program. It is shown this once."""
    options = {"scope": scope, "days": days, "permissions": [*permissions], "reason": reason}
    show(call(at, "create_token", principal, [*roles], **options), output)


@token.command("list")
@fleet_option
@output_option
def list_(at: Target, output: str) -> None:
    """List tokens: whose, until when, last used when."""
    show(call(at, "list_tokens"), output, ("id", "principal", "created", "expires", "last_used", "revoked"))


@token.command()
@click.argument("token_id")
@click.option("--reason", default="", help="Why, for the audit log.")
@fleet_option
@output_option
def revoke(token_id: str, reason: str, at: Target, output: str) -> None:
    """End the token TOKEN_ID (its id, not the token) at once."""
    show(call(at, "revoke_token", token_id, reason=reason), output)


@token.command()
@click.argument("principal", required=False)
@fleet_option
@output_option
def roles(principal: str | None, at: Target, output: str) -> None:
    """List the roles of PRINCIPAL, or of all: within which scope, given by whom."""
    show(call(at, "list_roles", principal), output, ("id", "principal", "role", "scope", "created", "created_by"))


@token.command()
@click.argument("principal")
@click.argument("role", metavar="ROLE", type=click.Choice([one.value for one in Role]))
@click.option("--scope", default="", help="For group:NAME or a query; without, for the whole fleet.")
@click.option("--reason", default="", help="Why, for the audit log.")
@fleet_option
@output_option
def grant(principal: str, role: str, scope: str, reason: str, at: Target, output: str) -> None:
    """Give PRINCIPAL a ROLE (viewer, operator …); every token of theirs has it from the next request on."""
    show(call(at, "grant_role", principal, role, scope=scope, reason=reason), output)


@token.command()
@click.argument("grant_id")
@click.option("--reason", default="", help="Why, for the audit log.")
@fleet_option
@output_option
def withdraw(grant_id: str, reason: str, at: Target, output: str) -> None:
    """Take the role GRANT_ID back (its id, as `token roles` shows it)."""
    show(call(at, "withdraw_role", grant_id, reason=reason), output)
