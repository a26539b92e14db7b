"""Every hook, in the order in which the host calls them. Hooks collect offers at start-up; they never carry messages.

A hook is a plain function, cheap and free of side effects, and importing its module imports no heavy SDK. Most return
offers, made by ``fleetcore.offer_storage``, ``fleetcore.offer_detector`` and so on, one maker per kind. The host calls
one plugin after another, so it can name a broken one and load the others. Of two offers with one name the later
plugin's is left out and reported; ``kind = "plugin:name"`` still chooses it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from fleetcore.interfaces import (
        Admission,
        CloudBackend,
        Codec,
        Detector,
        Notifier,
        ProtocolAdapter,
        Provider,
        Storage,
    )
    from fleetcore.model.events import EventType

PROJECT = "fleetcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def fleetcore_storages() -> "Iterable[Provider[Storage]]":  # type: ignore[empty-body]  # a specification has no body
    """Stores for the fleet, made by ``offer_storage``. Chosen by ``[storage] kind``; ``sqlite`` is built in.

    The opener gets the section and a :class:`~fleetcore.interfaces.Context` and yields a migrated
    :class:`~fleetcore.interfaces.Storage`. Contract: ``fleetcore.testing.storage_contract.StorageContract``.
    """


@hookspec
def fleetcore_codecs() -> "Iterable[Provider[Codec]]":  # type: ignore[empty-body]  # a specification has no body
    """Payload formats of readings, made by ``offer_codec``. All are open; content type or first bytes select one.

    ``json``, ``senml`` and ``cbor`` are built in. Contract: ``fleetcore.testing.codec_contract.CodecContract``.
    """


@hookspec
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":  # type: ignore[empty-body]  # no body
    """Protocols of devices, made by ``offer_protocol``. Opened for each ``[protocols.NAME]``.

    The opener also gets the device plane and the ingest (``opener(config, context, plane, ingest)``). ``local`` (in
    process) is built in. Contract: ``fleetcore.testing.protocol_contract.ProtocolContract``.
    """


@hookspec
def fleetcore_detectors() -> "Iterable[Provider[Detector]]":  # type: ignore[empty-body]  # no body
    """Detectors of abnormal readings and of silence, made by ``offer_detector``. Opened for each ``[detectors.NAME]``.

    The core applies ``where`` and ``metrics``. ``threshold``, ``statistical`` and ``silence`` are built in. Contract:
    ``fleetcore.testing.detector_contract.DetectorContract``.
    """


@hookspec
def fleetcore_notifiers() -> "Iterable[Provider[Notifier]]":  # type: ignore[empty-body]  # no body
    """Receivers of anomalies, made by ``offer_notifier``. Opened for each ``[notifiers.NAME]``; ``log`` is built in.

    Contract: ``fleetcore.testing.notifier_contract.NotifierContract``.
    """


@hookspec
def fleetcore_clouds() -> "Iterable[Provider[CloudBackend]]":  # type: ignore[empty-body]  # no body
    """Cloud hubs to mirror to, made by ``offer_cloud``. Opened for each ``[clouds.NAME]``.

    Contract: ``fleetcore.testing.cloud_contract.CloudContract``.
    """


@hookspec
def fleetcore_services() -> "Iterable[Provider[object]]":  # type: ignore[empty-body]  # no body
    """Long-running parts of the server such as the operators' API, made by ``offer_service``.

    Opened for each ``[services.NAME]``. The opener also gets the fleet (``opener(config, context, fleet)``); the object
    that it yields stays open as long as the server runs.
    """


@hookspec
def fleetcore_admissions() -> "Iterable[Provider[Admission]]":  # type: ignore[empty-body]  # no body
    """Checks of enrolments, made by ``offer_admission``. Opened for each ``[admission.NAME]``.

    A section makes the check a requirement: while it is not open, no device can enrol. An offer that no section names
    is not used. Contract: ``fleetcore.testing.admission_contract.AdmissionContract``.
    """


@hookspec
def fleetcore_events() -> "Iterable[EventType]":  # type: ignore[empty-body]  # a specification has no body
    """Event types that the plugin writes, each named ``x.NAME.WHAT`` after the plugin.

    Events of undeclared types are audited, and shown to administrators only.
    """


@hookspec
def fleetcore_calls() -> "Iterable[Callable[..., object]]":  # type: ignore[empty-body]  # a specification has no body
    """Operators' calls: functions declared with ``fleetcore.calls.table.call``.

    Named after the plugin: a call is ``NAME_WHAT``, its path begins with ``/x/NAME/``, its command with NAME. Calls
    appear on every front end of a running server, and in the library.
    """


@hookspec
def fleetcore_commands() -> "Iterable[click.Command]":  # type: ignore[empty-body]  # no body
    """Nouns for the command line, as click commands; called only when the noun is not one of the core's."""
