"""The minimal permissions of a mirror: a role of Azure, and shared access policies. Pure.

With Entra ID, data actions of a role allow the service's API; only a shared access policy allows the device's API,
which sends readings.
"""

import json
from collections.abc import Mapping, Sequence

from fleetcore.interfaces.cloud import CloudUse
from fleetcore_azure.actions import ACTIONS, needed
from fleetcore_azure.config import AzureConfig

#: Placeholders for missing configuration.
_SUBSCRIPTION, _GROUP = "SUBSCRIPTION", "RESOURCE_GROUP"


def policy(use: CloudUse, config: AzureConfig, fleet: str) -> Mapping[str, str]:
    """The permissions by form: ``json`` is the definition of a role, ``terraform`` has it and the policy of devices.

    ``az`` creates shared access policies instead of a role.
    """
    actions = needed(use, config)
    rights = list(dict.fromkeys(right for name in actions for right in ACTIONS[name].rights))
    permissions = list(dict.fromkeys(ACTIONS[name].permission for name in actions))
    if "RegistryWrite" in permissions:  # this includes it
        permissions = [each for each in permissions if each != "RegistryRead"]
    scope = f"/subscriptions/{config.subscription or _SUBSCRIPTION}/resourceGroups/{config.resource_group or _GROUP}"
    role = {
        "Name": f"fleetcore {fleet}",
        "IsCustom": True,
        "Description": f"The permissions of the mirror of fleet {fleet} at an IoT hub",
        "Actions": [],
        "NotActions": [],
        "DataActions": rights,
        "NotDataActions": [],
        "AssignableScopes": [scope],
    }
    return {
        "json": json.dumps(role, indent=2),
        "terraform": _terraform(actions, rights, permissions, fleet, scope),
        "az": _az(permissions, fleet),
    }


def _terraform(
    actions: Sequence[str], rights: Sequence[str], permissions: Sequence[str], fleet: str, scope: str
) -> str:
    word = fleet.replace("-", "_")
    lines = [
        f'resource "azurerm_role_definition" "fleetcore_{word}" {{',
        f'  name              = "fleetcore {fleet}"',
        f'  scope             = "{scope}"',
        f'  assignable_scopes = ["{scope}"]',
        "  permissions {",
        "    data_actions = [",
    ]
    for right in rights:
        why = "; ".join(ACTIONS[name].why for name in actions if right in ACTIONS[name].rights)
        lines.append(f'      "{right}", # {why}')
    lines += ["    ]", "  }", "}"]
    if "DeviceConnect" in permissions:
        lines += [
            "",
            "# Entra ID does not allow the device's API: this policy is for device_connection_string.",
            f'resource "azurerm_iothub_shared_access_policy" "fleetcore_{word}" {{',
            f'  name                = "fleetcore-{fleet}"',
            "  resource_group_name = azurerm_iothub.hub.resource_group_name",
            "  iothub_name         = azurerm_iothub.hub.name",
            "  device_connect      = true",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _az(permissions: Sequence[str], fleet: str) -> str:
    return (
        f"az iot hub policy create --hub-name HUB --name fleetcore-{fleet} --permissions {' '.join(permissions)}\n"
        f"az iot hub connection-string show --hub-name HUB --policy-name fleetcore-{fleet}\n"
    )
