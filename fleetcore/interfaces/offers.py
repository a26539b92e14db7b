"""Makers of offers, one per kind, so that a type checker refuses an opener with wrong parameters or result.

Importing this module imports no interface: a plugin's entry point loads at every start.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from fleetcore.interfaces.provider import Context, Kind, Provider
from fleetcore.interfaces.scene import Scene

if TYPE_CHECKING:
    from fleetcore.interfaces.admission import Admission
    from fleetcore.interfaces.cloud import CloudBackend
    from fleetcore.interfaces.codec import Codec
    from fleetcore.interfaces.detector import Detector
    from fleetcore.interfaces.ingest import Ingest
    from fleetcore.interfaces.notifier import Notifier
    from fleetcore.interfaces.protocol import DeviceClient, DevicePlane, DeviceSecrets, ProtocolAdapter
    from fleetcore.interfaces.storage import Storage
    from fleetcore.interfaces.trial import Trial

C = TypeVar("C")
FleetT = TypeVar("FleetT")
T = TypeVar("T")


def offer_storage(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context], AbstractAsyncContextManager[Storage]]",
    *,
    summary: str = "",
) -> "Provider[Storage]":
    """Offers a store, chosen by ``[storage] kind``.

    Args, the same for all makers: name: the kind in fleet.toml: letters, digits, ``-`` and ``_``. config: an attrs
        class that the section is structured into; unknown keys are refused. opener: ``opener(config, context)`` returns
        an async context manager of the open object. Import heavy SDKs here, never at the module's top. It must open
        within 30 s, see ``[fleet] open_timeout_s``. summary: one line for ``fleetcore plugin list``.

    Raises ``TypeError`` for a name that fleet.toml does not allow.
    """
    return _offer("storage", name, config, opener, summary)


def offer_codec(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context], AbstractAsyncContextManager[Codec]]",
    *,
    summary: str = "",
) -> "Provider[Codec]":
    """Offers a payload format; ``config`` has a default for each key. See :func:`offer_storage`."""
    return _offer("codecs", name, config, opener, summary)


def offer_protocol(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context, DevicePlane, Ingest], AbstractAsyncContextManager[ProtocolAdapter]]",
    *,
    client: "Callable[[str, DeviceSecrets], DeviceClient] | None" = None,
    demo: Mapping[str, object] | None = None,
    summary: str = "",
) -> "Provider[ProtocolAdapter]":
    """Offers a protocol for ``[protocols.NAME]``. See :func:`offer_storage`.

    Its opener also gets the device plane and the ingest.

    Args:
        client: the device's side: ``client(endpoint, secrets)``.
        demo: the section with which ``fleetcore demo`` opens it on a free loopback port.
    """
    return _offer("protocols", name, config, opener, summary, client, demo)


def offer_detector(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context], AbstractAsyncContextManager[Detector]]",
    *,
    summary: str = "",
) -> "Provider[Detector]":
    """Offers a detector for ``[detectors.NAME]``. See :func:`offer_storage`."""
    return _offer("detectors", name, config, opener, summary)


def offer_notifier(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context], AbstractAsyncContextManager[Notifier]]",
    *,
    summary: str = "",
) -> "Provider[Notifier]":
    """Offers a notifier for ``[notifiers.NAME]``. See :func:`offer_storage`."""
    return _offer("notifiers", name, config, opener, summary)


def offer_cloud(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context], AbstractAsyncContextManager[CloudBackend]]",
    *,
    trial: "Callable[[], AbstractAsyncContextManager[Trial]] | None" = None,
    summary: str = "",
) -> "Provider[CloudBackend]":
    """Offers a cloud hub for ``[clouds.NAME]``. See :func:`offer_storage`.

    Args:
        trial: runs a local stand-in for the hub; ``fleetcore demo`` mirrors its fleet to it.
    """
    return _offer("clouds", name, config, opener, summary, trial=trial)


def offer_service(
    name: str,
    config: type[C],
    opener: Callable[[C, Context, FleetT], AbstractAsyncContextManager[object]],
    *,
    scene: Scene | None = None,
    summary: str = "",
) -> Provider[object]:
    """Offers a service for ``[services.NAME]``; its opener also gets the fleet. See :func:`offer_storage`.

    Args:
        scene: what ``fleetcore demo`` shows of it.
    """
    return _offer("services", name, config, opener, summary, scene=scene)


def offer_admission(
    name: str,
    config: type[C],
    opener: "Callable[[C, Context], AbstractAsyncContextManager[Admission]]",
    *,
    summary: str = "",
) -> "Provider[Admission]":
    """Offers an enrolment check, used where ``[admission.NAME]`` requires it. See :func:`offer_storage`."""
    return _offer("admission", name, config, opener, summary)


def _offer(
    kind: Kind,
    name: str,
    config: type,
    opener: Callable[..., AbstractAsyncContextManager[T]],
    summary: str,
    client: Callable[..., Any] | None = None,
    demo: Mapping[str, object] | None = None,
    trial: "Callable[[], AbstractAsyncContextManager[Trial]] | None" = None,
    scene: Scene | None = None,
) -> Provider[T]:
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise TypeError(f"{name!r} is not a valid offer name: use letters, digits, - and _")
    return Provider(
        kind=kind,
        name=name,
        config_class=config,
        opener=opener,
        client=client,
        demo=demo,
        trial=trial,
        scene=scene,
        summary=summary,
    )
