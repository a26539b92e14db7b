"""The parts of azure-iot-hub that use HTTPS.

The package's own top imports uamqp, for AMQP. uamqp only has wheels for x86-64, and nothing here uses it; so the parts
are imported below a package whose top is not run. Other importers of the package get all of it.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from fleetcore.errors import ConfigError

_PACKAGE = "azure.iot.hub"


def _imported(names: tuple[str, ...]) -> list[ModuleType]:
    try:
        spec = importlib.util.find_spec(_PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise ConfigError(
            "azure-iot-hub is not installed",
            remedy="pip install azure-iot-hub; if its uamqp has no wheel: pip install --no-deps azure-iot-hub",
        )
    whole = sys.modules.get(_PACKAGE)
    if whole is None:
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        return [importlib.import_module(f"{_PACKAGE}.{name}") for name in names]
    finally:
        if whole is None:
            del sys.modules[_PACKAGE]


_service, _models = _imported(("protocol.iot_hub_gateway_service_ap_is", "protocol.models"))

#: The client under the package's managers.
Service: Any = _service.IotHubGatewayServiceAPIs
#: Its records: ``Twin``, ``Device``, ``ExportImportDevice``, …
models: Any = _models
