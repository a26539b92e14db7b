"""The built-in plugins, offered by the same hooks as every other plugin.

Importing this module imports nothing heavy; a kind's modules are imported when its hook is asked.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_codec, offer_detector, offer_notifier, offer_protocol, offer_storage
from fleetcore.interfaces.provider import Provider

if TYPE_CHECKING:
    from fleetcore.interfaces.codec import Codec
    from fleetcore.interfaces.detector import Detector
    from fleetcore.interfaces.notifier import Notifier
    from fleetcore.interfaces.protocol import ProtocolAdapter
    from fleetcore.interfaces.storage import Storage

FLEETCORE_PLUGIN_API = 2


@hookimpl
def fleetcore_storages() -> "Iterable[Provider[Storage]]":
    """``sqlite``."""
    from fleetcore.builtin.sqlite.config import SqliteConfig
    from fleetcore.builtin.sqlite.storage import open_sqlite

    return [offer_storage("sqlite", SqliteConfig, open_sqlite, summary="one SQLite file, or memory, for everything")]


@hookimpl
def fleetcore_codecs() -> "Iterable[Provider[Codec]]":
    """``json``, ``senml`` and ``cbor``."""
    from fleetcore.builtin.cbor_codec import CborConfig, open_cbor
    from fleetcore.builtin.json_codec import JsonConfig, open_json
    from fleetcore.builtin.senml_codec import SenmlConfig, open_senml

    return [
        offer_codec("json", JsonConfig, open_json, summary="readings as JSON objects"),
        offer_codec("senml", SenmlConfig, open_senml, summary="SenML packs (RFC 8428), JSON and CBOR"),
        offer_codec("cbor", CborConfig, open_cbor, summary="readings as CBOR, in the same forms as JSON"),
    ]


@hookimpl
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":
    """``local``."""
    from fleetcore.builtin.local_protocol import LocalConfig, open_local, open_local_client

    return [
        offer_protocol(
            "local",
            LocalConfig,
            open_local,
            client=open_local_client,
            demo={},
            summary="devices in the same process, without a network",
        )
    ]


@hookimpl
def fleetcore_detectors() -> "Iterable[Provider[Detector]]":
    """``threshold``, ``statistical`` and ``silence``."""
    from fleetcore.builtin.silence import SilenceConfig, open_silence
    from fleetcore.builtin.statistical import StatisticalConfig, open_statistical
    from fleetcore.builtin.threshold import ThresholdConfig, open_threshold

    return [
        offer_detector("threshold", ThresholdConfig, open_threshold, summary="readings beyond fixed limits"),
        offer_detector("statistical", StatisticalConfig, open_statistical, summary="readings far from what is normal"),
        offer_detector("silence", SilenceConfig, open_silence, summary="series that have stopped sending"),
    ]


@hookimpl
def fleetcore_notifiers() -> "Iterable[Provider[Notifier]]":
    """``log``."""
    from fleetcore.builtin.log_notifier import LogConfig, open_log

    return [offer_notifier("log", LogConfig, open_log, summary="one line per anomaly in the server's log")]
