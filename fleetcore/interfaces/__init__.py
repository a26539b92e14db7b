"""The interfaces that plugins implement and the objects they are given. The docstrings are the contract.

The names load on first use (PEP 562), so that importing a plugin's entry-point module stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetcore.interfaces.admission import (
        Admission as Admission,
    )
    from fleetcore.interfaces.admission import (
        Admit as Admit,
    )
    from fleetcore.interfaces.admission import (
        BlockingAdmission as BlockingAdmission,
    )
    from fleetcore.interfaces.admission import (
        Candidate as Candidate,
    )
    from fleetcore.interfaces.admission import (
        Refuse as Refuse,
    )
    from fleetcore.interfaces.admission import (
        Verdict as Verdict,
    )
    from fleetcore.interfaces.admission import (
        Wait as Wait,
    )
    from fleetcore.interfaces.clock import (
        Clock as Clock,
    )
    from fleetcore.interfaces.cloud import (
        Arrived as Arrived,
    )
    from fleetcore.interfaces.cloud import (
        CloudBackend as CloudBackend,
    )
    from fleetcore.interfaces.cloud import (
        CloudChange as CloudChange,
    )
    from fleetcore.interfaces.cloud import (
        CloudCommand as CloudCommand,
    )
    from fleetcore.interfaces.cloud import (
        CloudLimits as CloudLimits,
    )
    from fleetcore.interfaces.cloud import (
        CloudUse as CloudUse,
    )
    from fleetcore.interfaces.cloud import (
        Fitted as Fitted,
    )
    from fleetcore.interfaces.cloud import (
        MirrorItem as MirrorItem,
    )
    from fleetcore.interfaces.cloud import (
        MirrorResult as MirrorResult,
    )
    from fleetcore.interfaces.cloud import (
        Sent as Sent,
    )
    from fleetcore.interfaces.codec import (
        Codec as Codec,
    )
    from fleetcore.interfaces.codec import (
        DecodedReading as DecodedReading,
    )
    from fleetcore.interfaces.detector import (
        Detector as Detector,
    )
    from fleetcore.interfaces.ingest import (
        Ingest as Ingest,
    )
    from fleetcore.interfaces.notifier import (
        Notifier as Notifier,
    )
    from fleetcore.interfaces.offers import (
        offer_admission as offer_admission,
    )
    from fleetcore.interfaces.offers import (
        offer_cloud as offer_cloud,
    )
    from fleetcore.interfaces.offers import (
        offer_codec as offer_codec,
    )
    from fleetcore.interfaces.offers import (
        offer_detector as offer_detector,
    )
    from fleetcore.interfaces.offers import (
        offer_notifier as offer_notifier,
    )
    from fleetcore.interfaces.offers import (
        offer_protocol as offer_protocol,
    )
    from fleetcore.interfaces.offers import (
        offer_service as offer_service,
    )
    from fleetcore.interfaces.offers import (
        offer_storage as offer_storage,
    )
    from fleetcore.interfaces.protocol import (
        ArtifactReader as ArtifactReader,
    )
    from fleetcore.interfaces.protocol import (
        ClaimSession as ClaimSession,
    )
    from fleetcore.interfaces.protocol import (
        DeviceClient as DeviceClient,
    )
    from fleetcore.interfaces.protocol import (
        DevicePlane as DevicePlane,
    )
    from fleetcore.interfaces.protocol import (
        DeviceSecrets as DeviceSecrets,
    )
    from fleetcore.interfaces.protocol import (
        EnrollRequest as EnrollRequest,
    )
    from fleetcore.interfaces.protocol import (
        ProtocolAdapter as ProtocolAdapter,
    )
    from fleetcore.interfaces.protocol import (
        Session as Session,
    )
    from fleetcore.interfaces.provider import (
        Context as Context,
    )
    from fleetcore.interfaces.provider import (
        Provider as Provider,
    )
    from fleetcore.interfaces.state import (
        PluginState as PluginState,
    )
    from fleetcore.interfaces.storage import (
        Sharing as Sharing,
    )
    from fleetcore.interfaces.storage import (
        Storage as Storage,
    )

_HOME = {
    "Admission": "fleetcore.interfaces.admission",
    "Admit": "fleetcore.interfaces.admission",
    "BlockingAdmission": "fleetcore.interfaces.admission",
    "Candidate": "fleetcore.interfaces.admission",
    "Refuse": "fleetcore.interfaces.admission",
    "Verdict": "fleetcore.interfaces.admission",
    "Wait": "fleetcore.interfaces.admission",
    "PluginState": "fleetcore.interfaces.state",
    "offer_storage": "fleetcore.interfaces.offers",
    "offer_codec": "fleetcore.interfaces.offers",
    "offer_protocol": "fleetcore.interfaces.offers",
    "offer_detector": "fleetcore.interfaces.offers",
    "offer_notifier": "fleetcore.interfaces.offers",
    "offer_cloud": "fleetcore.interfaces.offers",
    "offer_service": "fleetcore.interfaces.offers",
    "offer_admission": "fleetcore.interfaces.offers",
    "ArtifactReader": "fleetcore.interfaces.protocol",
    "ClaimSession": "fleetcore.interfaces.protocol",
    "Clock": "fleetcore.interfaces.clock",
    "CloudBackend": "fleetcore.interfaces.cloud",
    "Codec": "fleetcore.interfaces.codec",
    "Context": "fleetcore.interfaces.provider",
    "DecodedReading": "fleetcore.interfaces.codec",
    "Detector": "fleetcore.interfaces.detector",
    "DeviceClient": "fleetcore.interfaces.protocol",
    "DevicePlane": "fleetcore.interfaces.protocol",
    "DeviceSecrets": "fleetcore.interfaces.protocol",
    "EnrollRequest": "fleetcore.interfaces.protocol",
    "Ingest": "fleetcore.interfaces.ingest",
    "Arrived": "fleetcore.interfaces.cloud",
    "CloudChange": "fleetcore.interfaces.cloud",
    "CloudCommand": "fleetcore.interfaces.cloud",
    "CloudLimits": "fleetcore.interfaces.cloud",
    "CloudUse": "fleetcore.interfaces.cloud",
    "Fitted": "fleetcore.interfaces.cloud",
    "Sent": "fleetcore.interfaces.cloud",
    "MirrorItem": "fleetcore.interfaces.cloud",
    "MirrorResult": "fleetcore.interfaces.cloud",
    "Notifier": "fleetcore.interfaces.notifier",
    "ProtocolAdapter": "fleetcore.interfaces.protocol",
    "Provider": "fleetcore.interfaces.provider",
    "Session": "fleetcore.interfaces.protocol",
    "Sharing": "fleetcore.interfaces.storage",
    "Storage": "fleetcore.interfaces.storage",
}

__all__ = [
    "Admission",
    "Admit",
    "Arrived",
    "ArtifactReader",
    "BlockingAdmission",
    "Candidate",
    "ClaimSession",
    "Clock",
    "CloudBackend",
    "CloudChange",
    "CloudCommand",
    "CloudLimits",
    "CloudUse",
    "Codec",
    "Context",
    "DecodedReading",
    "Detector",
    "DeviceClient",
    "DevicePlane",
    "DeviceSecrets",
    "EnrollRequest",
    "Fitted",
    "Ingest",
    "MirrorItem",
    "MirrorResult",
    "Notifier",
    "PluginState",
    "ProtocolAdapter",
    "Provider",
    "Refuse",
    "Sent",
    "Session",
    "Sharing",
    "Storage",
    "Verdict",
    "Wait",
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
        raise AttributeError(f"module 'fleetcore.interfaces' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
