"""fleetcore: an IoT device fleet manager composed of plugins.

It is a library (:class:`IoTFleetManager`), a server, a command line and a test kit over an embedded store. Protocols,
stores, detectors and clouds are plugins (``hookspecs``, ``interfaces``).

A device connects through a protocol, which only translates. The device plane (``runtime.plane``) decides by its
certificate or token who it is, and about which devices it may send. A message becomes an ``Inbound`` (``model``) and
waits in a bounded queue. It is admitted, decoded, validated and committed in a batch (``pipeline``), and then it is
acknowledged. Every commit adds an entry to the feed. Detectors, notifiers, the audit log and mirrors read the feed,
each from its own cursor, so that a crash skips nothing. Messages other than readings go to the part of ``fleet`` that
handles their type.

An operator's call is one typed function (``calls``), from which the library, the clients, the control socket, HTTP and
the command line (``frontends``, ``client``, ``cli``) are derived. It checks the caller's rights and changes records in
``fleet``; each change commits an event with it. docs/explanation/glossary.md explains the terms.

The public names load on first use (PEP 562), so that ``fleetcore --version`` and a plugin's entry-point module load
only what they use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Raised when hook signatures change; a plugin states the one it supports in ``FLEETCORE_PLUGIN_API``.
PLUGIN_API = 2

_HOME = {
    "IoTFleetManager": "fleetcore.frontends.library",
    "SecurityManager": "fleetcore.fleet.security",
    "EdgeComputing": "fleetcore.fleet.edge",
    "AnomalyDetector": "fleetcore.fleet.anomalies",
    "FleetError": "fleetcore.errors",
    "hookimpl": "fleetcore.hookspecs",
    "offer_admission": "fleetcore.interfaces.offers",
    "offer_cloud": "fleetcore.interfaces.offers",
    "offer_codec": "fleetcore.interfaces.offers",
    "offer_detector": "fleetcore.interfaces.offers",
    "offer_notifier": "fleetcore.interfaces.offers",
    "offer_protocol": "fleetcore.interfaces.offers",
    "offer_service": "fleetcore.interfaces.offers",
    "offer_storage": "fleetcore.interfaces.offers",
}

if TYPE_CHECKING:
    from fleetcore.errors import FleetError as FleetError
    from fleetcore.fleet.anomalies import AnomalyDetector as AnomalyDetector
    from fleetcore.fleet.edge import EdgeComputing as EdgeComputing
    from fleetcore.fleet.security import SecurityManager as SecurityManager
    from fleetcore.frontends.library import IoTFleetManager as IoTFleetManager
    from fleetcore.hookspecs import hookimpl as hookimpl
    from fleetcore.interfaces.offers import offer_admission as offer_admission
    from fleetcore.interfaces.offers import offer_cloud as offer_cloud
    from fleetcore.interfaces.offers import offer_codec as offer_codec
    from fleetcore.interfaces.offers import offer_detector as offer_detector
    from fleetcore.interfaces.offers import offer_notifier as offer_notifier
    from fleetcore.interfaces.offers import offer_protocol as offer_protocol
    from fleetcore.interfaces.offers import offer_service as offer_service
    from fleetcore.interfaces.offers import offer_storage as offer_storage

__all__ = [
    "PLUGIN_API",
    "AnomalyDetector",
    "EdgeComputing",
    "FleetError",
    "IoTFleetManager",
    "SecurityManager",
    "__version__",
    "hookimpl",
    "offer_admission",
    "offer_cloud",
    "offer_codec",
    "offer_detector",
    "offer_notifier",
    "offer_protocol",
    "offer_service",
    "offer_storage",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fleetcore' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
