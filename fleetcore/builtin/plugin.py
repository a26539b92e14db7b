"""What fleetcore brings along, offered by the same hooks as everybody's plugins.

Importing this module imports nothing heavy; a kind's modules are imported when its hook is asked.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.provider import Provider, offer

if TYPE_CHECKING:
    from fleetcore.interfaces.codec import Codec
    from fleetcore.interfaces.detector import Detector
    from fleetcore.interfaces.notifier import Notifier
    from fleetcore.interfaces.protocol import ProtocolAdapter
    from fleetcore.interfaces.storage import Storage

FLEETCORE_PLUGIN_API = 1


@hookimpl
def fleetcore_storages() -> "Iterable[Provider[Storage]]":
    """``sqlite``."""
    from fleetcore.builtin.sqlite.config import SqliteConfig
    from fleetcore.builtin.sqlite.storage import open_sqlite

    return [offer("sqlite", SqliteConfig, open_sqlite, summary="one SQLite file, or memory, for everything")]


@hookimpl
def fleetcore_codecs() -> "Iterable[Provider[Codec]]":
    """``json``, ``senml`` and ``cbor``."""
    from fleetcore.builtin.cbor_codec import CborConfig, open_cbor
    from fleetcore.builtin.json_codec import JsonConfig, open_json
    from fleetcore.builtin.senml_codec import SenmlConfig, open_senml

    return [
        offer("json", JsonConfig, open_json, summary="readings as JSON objects"),
        offer("senml", SenmlConfig, open_senml, summary="SenML packs (RFC 8428), JSON and CBOR"),
        offer("cbor", CborConfig, open_cbor, summary="readings as JSON has them, in CBOR"),
    ]


@hookimpl
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":
    """``local``."""
    from fleetcore.builtin.local_protocol import LocalConfig, open_local, open_local_client

    return [
        offer(
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
    """``threshold`` and ``statistical``."""
    from fleetcore.builtin.statistical import StatisticalConfig, open_statistical
    from fleetcore.builtin.threshold import ThresholdConfig, open_threshold

    return [
        offer("threshold", ThresholdConfig, open_threshold, summary="readings beyond fixed limits"),
        offer("statistical", StatisticalConfig, open_statistical, summary="readings far from their series' normal"),
    ]


@hookimpl
def fleetcore_notifiers() -> "Iterable[Provider[Notifier]]":
    """``log``."""
    from fleetcore.builtin.log_notifier import LogConfig, open_log

    return [offer("log", LogConfig, open_log, summary="one line per anomaly in the server's log")]
