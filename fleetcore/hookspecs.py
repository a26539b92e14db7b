"""Every hook, in the order in which they are asked. Hooks collect offers at start-up; they never carry messages.

A hook is synchronous, cheap and free of side effects, and importing the module it stands in imports no heavy SDK.
Each returns an iterable of offers made by :func:`fleetcore.offer`. The host asks plugin by plugin, so a broken one
is named and the others load; two offers of one name in one kind are an error that names both plugins.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from fleetcore.interfaces import (
        CloudBackend,
        Codec,
        Detector,
        Notifier,
        ProtocolAdapter,
        Provider,
        Storage,
    )
    from fleetcore.model.device import Device
    from fleetcore.model.events import EventType

PROJECT = "fleetcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def fleetcore_storages() -> "Iterable[Provider[Storage]]":  # type: ignore[empty-body]  # a specification has no body
    """Places to keep the fleet. Chosen by ``[storage] kind``; ``sqlite`` is built in.

    The opener gets the section and a :class:`~fleetcore.interfaces.Context` and yields a migrated
    :class:`~fleetcore.interfaces.Storage`. Contract: ``fleetcore.testing.StorageContract``.
    """


@hookspec
def fleetcore_codecs() -> "Iterable[Provider[Codec]]":  # type: ignore[empty-body]  # a specification has no body
    """Payload formats of readings. All offered codecs are open; content type or first bytes choose one.

    ``json``, ``senml`` and ``cbor`` are built in. Contract: ``fleetcore.testing.CodecContract``.
    """


@hookspec
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":  # type: ignore[empty-body]  # no body
    """Ways for devices to speak. Opened for each ``[protocols.NAME]``; the opener also gets the device plane.

    ``local`` (in process) is built in. Contract: ``fleetcore.testing.ProtocolContract``.
    """


@hookspec
def fleetcore_detectors() -> "Iterable[Provider[Detector]]":  # type: ignore[empty-body]  # no body
    """Finders of abnormal readings. Opened for each ``[detectors.NAME]``; the core applies ``where`` and ``metrics``.

    ``threshold`` and ``statistical`` are built in. Contract: ``fleetcore.testing.DetectorContract``.
    """


@hookspec
def fleetcore_notifiers() -> "Iterable[Provider[Notifier]]":  # type: ignore[empty-body]  # no body
    """Sinks for anomalies. Opened for each ``[notifiers.NAME]``; ``log`` is built in.

    Contract: ``fleetcore.testing.NotifierContract``.
    """


@hookspec
def fleetcore_clouds() -> "Iterable[Provider[CloudBackend]]":  # type: ignore[empty-body]  # no body
    """Cloud hubs to mirror to. Opened for each ``[clouds.NAME]``.

    Contract: ``fleetcore.testing.CloudContract``.
    """


@hookspec
def fleetcore_services() -> "Iterable[Provider[object]]":  # type: ignore[empty-body]  # no body
    """Long-running parts of the server, an operator API for one. Opened for each ``[services.NAME]``.

    The opener also gets the fleet (``opener(config, context, fleet)``) and is open as long as the server runs.
    """


@hookspec
def fleetcore_admissions() -> "Iterable[Callable[[Device, dict[str, object]], str | None]]":  # type: ignore[empty-body]
    """Checks of an enrolment: each callable gets the device and its parameters.

    Returns None to let it pass or a reason to refuse it; raising refuses too (fail closed).
    """


@hookspec
def fleetcore_runners() -> "Iterable[Provider[object]]":  # type: ignore[empty-body]  # no body
    """Runtimes for edge functions. Opened for each ``[runners.NAME]`` by the edge agent."""


@hookspec
def fleetcore_keystores() -> "Iterable[Provider[object]]":  # type: ignore[empty-body]  # no body
    """Where CA keys live, a KMS or PKCS #11 token for one. Chosen by ``[ca] keystore``; files are the default."""


@hookspec
def fleetcore_events() -> "Iterable[EventType]":  # type: ignore[empty-body]  # a specification has no body
    """Event types that the plugin writes, each called ``x.NAME.WHAT`` by the plugin's name.

    Events of undeclared types are audited, and shown to administrators only.
    """


@hookspec
def fleetcore_calls() -> "Iterable[Callable[..., object]]":  # type: ignore[empty-body]  # a specification has no body
    """Calls of the operators: functions declared with ``fleetcore.calls.table.call``.

    By the plugin's name: each is called ``NAME_WHAT``, its path begins with ``/x/NAME/``, its command with NAME. They
    appear on every front end of a running server, and in the library.
    """


@hookspec
def fleetcore_commands() -> "Iterable[click.Command]":  # type: ignore[empty-body]  # no body
    """Nouns for the command line, as click commands; asked only when the noun is not one of the core's."""
