"""A gateway's clock and journal, opened for ``fleetcore edge run``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fleetcore import files
from fleetcore.errors import ConfigError, StorageError
from fleetcore_edge.clock.gateway_clock import GatewayClock
from fleetcore_edge.clock.machine import LinuxMachine, Machine
from fleetcore_edge.uplink.config import CLOCKS, DISK_MIB, FOLDER
from fleetcore_edge.uplink.credentials import issued_ms

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet


def open_clock(data: Path, section: Mapping[str, object], machine: Machine | None = None) -> GatewayClock:
    """The clock of a data folder; ``section`` is its ``[services.uplink]``. Raises ConfigError."""
    setting = section.get("clock", CLOCKS[0])
    if setting not in CLOCKS:
        raise ConfigError(f"[services.uplink] clock must be one of {', '.join(CLOCKS)}", file=str(data / "fleet.toml"))
    floor = issued_ms(data / str(section.get("folder", FOLDER)))
    return GatewayClock(data, machine or LinuxMachine(), floor_ms=floor, trust=setting == "trust")


def holding(clock: GatewayClock, data: Path, section: Mapping[str, object]) -> "Callable[[Fleet], None]":
    """What puts the journal in place, in a fleet that does not listen yet; it raises StorageError."""
    from fleetcore_edge.clock.held import SHARE, HeldMessages

    given = section.get("disk_mib", DISK_MIB)
    disk_mib = given if isinstance(given, int) else DISK_MIB

    def hold(fleet: "Fleet") -> None:
        try:
            fleet.hold(HeldMessages(fleet, clock, data, limit_bytes=int(disk_mib * 1024**2 * SHARE)))
        except OSError as error:
            raise StorageError(
                f"The folder {data / 'clock'} cannot be used: {error.strerror}", remedy=files.remedy_of(error)
            ) from error

    return hold
