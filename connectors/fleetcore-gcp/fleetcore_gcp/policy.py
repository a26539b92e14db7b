"""The minimal permissions of a mirror: one custom role for each kind of resource, bound where it is needed. Pure."""

import json
from collections.abc import Mapping, Sequence

from attrs import frozen

from fleetcore.interfaces.cloud import CloudUse
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.permissions import PERMISSIONS, Needed, needed

_KINDS = {"topics": "topic", "subscriptions": "subscription"}


@frozen(kw_only=True)
class _Role:
    """Permissions that some resources share."""

    id: str
    permissions: Sequence[str]
    resources: Sequence[str]


def policy(use: CloudUse, config: GcpConfig, fleet: str) -> Mapping[str, str]:
    """The roles and their bindings, by form: ``json`` and ``terraform``."""
    roles = _roles(needed(use, config), fleet)
    document = {
        "roles": [
            {
                "name": f"projects/{config.project}/roles/{role.id}",
                "title": f"fleetcore: {fleet}",
                "stage": "GA",
                "includedPermissions": list(role.permissions),
            }
            for role in roles
        ],
        "bindings": [
            {"resource": resource, "role": f"projects/{config.project}/roles/{role.id}"}
            for role in roles
            for resource in role.resources
        ],
    }
    return {"json": json.dumps(document, indent=2), "terraform": _terraform(roles, config, fleet)}


def _roles(wanted: Sequence[Needed], fleet: str) -> Sequence[_Role]:
    together: dict[tuple[str, ...], list[str]] = {}
    for each in wanted:
        together.setdefault(tuple(each.permissions), []).append(each.resource)
    found: list[_Role] = []
    numbers: dict[str, int] = {}
    for permissions, resources in together.items():
        kind = _kind(resources[0])
        number = numbers[kind] = numbers.get(kind, 0) + 1
        # Ids of roles only have letters, digits, . and _.
        role_id = f"fleetcore_{fleet.replace('-', '_')}_{kind}{'' if number == 1 else number}"
        found.append(_Role(id=role_id, permissions=permissions, resources=resources))
    return found


def _kind(resource: str) -> str:
    parts = resource.split("/")
    return _KINDS[parts[2]] if len(parts) == 4 else "project"


def _terraform(roles: Sequence[_Role], config: GcpConfig, fleet: str) -> str:
    word = fleet.replace("-", "_")
    lines = [
        f'variable "fleetcore_{word}_member" {{',
        '  description = "Who the server is: serviceAccount:NAME@PROJECT.iam.gserviceaccount.com"',
        "  type        = string",
        "}",
    ]
    for role in roles:
        lines += [
            "",
            f'resource "google_project_iam_custom_role" "{role.id}" {{',
            f"  project = {json.dumps(config.project)}",
            f"  role_id = {json.dumps(role.id)}",
            f"  title   = {json.dumps(f'fleetcore: {fleet}')}",
            "  permissions = [",
            *(f'    "{each}", # {PERMISSIONS[each]}' for each in role.permissions),
            "  ]",
            "}",
            "",
            *_bound(role, config, word),
        ]
    return "\n".join(lines) + "\n"


def _bound(role: _Role, config: GcpConfig, word: str) -> Sequence[str]:
    kind = _kind(role.resources[0])
    member = [
        f"  project = {json.dumps(config.project)}",
        f"  role    = google_project_iam_custom_role.{role.id}.id",
        f"  member  = var.fleetcore_{word}_member",
        "}",
    ]
    if kind == "project":
        return [f'resource "google_project_iam_member" "{role.id}" {{', *member]
    names = json.dumps([resource.rpartition("/")[2] for resource in role.resources])
    return [
        f'resource "google_pubsub_{kind}_iam_member" "{role.id}" {{',
        f"  for_each = toset({names})",
        f"  {kind} = each.value",
        *member,
    ]
