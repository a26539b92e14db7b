"""fleetcore: an IoT device fleet manager that composes from plugins.

The public names load on first use (PEP 562), so that ``fleetcore --version`` and a plugin's entry-point module
pay for nothing they do not touch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Raised when hook signatures change; a plugin states the one it was written for in ``FLEETCORE_PLUGIN_API``.
PLUGIN_API = 1

_HOME = {
    "IoTFleetManager": "fleetcore.frontends.library",
    "SecurityManager": "fleetcore.fleet.security",
    "EdgeComputing": "fleetcore.fleet.edge",
    "AnomalyDetector": "fleetcore.fleet.anomalies",
    "FleetError": "fleetcore.errors",
    "hookimpl": "fleetcore.hookspecs",
    "offer": "fleetcore.interfaces.provider",
}

if TYPE_CHECKING:
    from fleetcore.errors import FleetError as FleetError
    from fleetcore.fleet.anomalies import AnomalyDetector as AnomalyDetector
    from fleetcore.fleet.edge import EdgeComputing as EdgeComputing
    from fleetcore.fleet.security import SecurityManager as SecurityManager
    from fleetcore.frontends.library import IoTFleetManager as IoTFleetManager
    from fleetcore.hookspecs import hookimpl as hookimpl
    from fleetcore.interfaces.provider import offer as offer

__all__ = [
    "PLUGIN_API",
    "AnomalyDetector",
    "EdgeComputing",
    "FleetError",
    "IoTFleetManager",
    "SecurityManager",
    "__version__",
    "hookimpl",
    "offer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fleetcore' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
