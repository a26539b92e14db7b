"""A scene: what a service's plugin shows in ``fleetcore demo``."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets


@frozen(kw_only=True)
class Stage:
    """The running demo, as a scene gets it.

    Attributes:
        folder: for the scene's files; it exists, and only this user may read it.
        ca: the CA certificates of the demo's server, PEM.
        endpoints: where devices reach the server, by protocol.
        clients: the device's side of each protocol.
        run: ``await run(call, arguments)`` calls the server as an administrator.
        expect: ``expect(holds, text)`` prints a line of the demo's account; one that does not hold makes it fail.
    """

    folder: Path
    ca: bytes
    endpoints: Mapping[str, str]
    clients: "Mapping[str, Callable[[str, DeviceSecrets], DeviceClient]]"
    run: Callable[[str, Mapping[str, object]], Awaitable[Any]]
    expect: Callable[[bool, str], None]


#: Plays on a stage until it has shown its part; what it raises ends the demo.
Scene = Callable[[Stage], Awaitable[None]]
