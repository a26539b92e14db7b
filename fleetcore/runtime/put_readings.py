"""A part of an import on its way into the data path: parsed, checked for its devices, and stored."""

from collections.abc import Awaitable, Callable

from fleetcore.pipeline.bulk import Imported, Part
from fleetcore.pipeline.parts import read_part
from fleetcore.pipeline.session import DeviceState
from fleetcore.runtime.app import Fleet


async def put_readings(
    fleet: Fleet, body: bytes, refused: Callable[[str], Awaitable[str | None]], *, dry_run: bool
) -> tuple[Part, Imported]:
    """Stores a part; ``refused`` returns the code of why the caller may not write a device's readings, or None.

    Raises Refused if the body is not a part.
    """
    part = read_part(body)
    states: dict[str, DeviceState | str] = {}
    for device in sorted({device for device, _, _ in part.series}):
        states[device] = await refused(device) or await fleet.sessions.state(device)
    return part, await fleet.bulk.put(part, states, dry_run=dry_run)
