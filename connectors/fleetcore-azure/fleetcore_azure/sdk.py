"""The parts of azure-iot-hub that speak HTTPS.

The package's own top imports uamqp, for what is sent by AMQP. uamqp has wheels for x86-64 alone, and none of it is used
here; so the parts are imported below a package whose top is not run. What else imports the package gets all of it.
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
            remedy="pip install azure-iot-hub; where its uamqp has no wheel: pip install --no-deps azure-iot-hub",
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

#: The client that the package's managers are made of.
Service: Any = _service.IotHubGatewayServiceAPIs
#: Its records: ``Twin``, ``Device``, ``ExportImportDevice``, …
models: Any = _models
