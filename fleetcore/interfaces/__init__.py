"""What a plugin promises and what it is lent: abstract classes whose docstrings are the contract."""

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend, MirrorItem, MirrorResult
from fleetcore.interfaces.codec import Codec, DecodedReading
from fleetcore.interfaces.detector import Detector
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.notifier import Notifier
from fleetcore.interfaces.protocol import (
    ArtifactReader,
    DeviceClient,
    DevicePlane,
    DeviceSecrets,
    EnrollRequest,
    ProtocolAdapter,
    Session,
)
from fleetcore.interfaces.provider import Context, Provider, offer
from fleetcore.interfaces.storage import Storage

__all__ = [
    "ArtifactReader",
    "Clock",
    "CloudBackend",
    "Codec",
    "Context",
    "DecodedReading",
    "Detector",
    "DeviceClient",
    "DevicePlane",
    "DeviceSecrets",
    "EnrollRequest",
    "Ingest",
    "MirrorItem",
    "MirrorResult",
    "Notifier",
    "ProtocolAdapter",
    "Provider",
    "Session",
    "Storage",
    "offer",
]
