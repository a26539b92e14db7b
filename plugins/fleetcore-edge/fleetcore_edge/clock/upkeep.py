"""What the uplink does for the time: it keeps the clock, asks the core, submits what waited, and reports."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attrs import asdict, frozen

from fleetcore.interfaces.protocol import DeviceClient
from fleetcore.runtime.supervise import Supervisor
from fleetcore_edge.clock.asking import CoreTime
from fleetcore_edge.clock.held import HeldMessages

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet


@frozen
class GatewayTime:
    """The clock of a gateway's fleet, and the messages that wait for it.

    Both are None in a fleet with another clock, such as a server's.
    """

    held: HeldMessages | None
    core: CoreTime | None

    @classmethod
    def of(cls, fleet: "Fleet") -> "GatewayTime":
        """Those of a fleet."""
        held = fleet.holder if isinstance(fleet.holder, HeldMessages) else None
        return cls(held, None if held is None else CoreTime(held.clock))

    def opening(self) -> None:
        """A connection to the core is about to be opened."""
        if self.core is not None:
            self.core.opening()

    async def greet(self, client: DeviceClient) -> bool:
        """Asks for the time over a new connection; False where it is to be opened again."""
        return self.core is None or await self.core.greet(client)

    async def make_room(self) -> bool:
        """Drops some of the oldest readings that wait; False if there are none."""
        return self.held is not None and await self.held.make_room()

    def keep(self, supervisor: Supervisor, *, reconnect: Callable[[], None], report: Callable[[], None]) -> None:
        """Keeps all of it running; ``reconnect`` opens the connection again, and ``report`` reports the status."""
        held, core = self.held, self.core
        if held is None or core is None:
            return
        held.clock.on_change(report)
        supervisor.keep("gateway clock", held.clock.run)
        supervisor.keep("time of the core", lambda: core.run(reconnect))
        supervisor.keep("messages that wait for the time", held.run)

    def status(self) -> Mapping[str, object]:
        """For people: whether the time is known, where it is from, and what waits."""
        if self.held is None or self.core is None:
            return {"known": True, "source": "machine"}
        clock = self.held.clock
        # None removes a member from the reported state, where it is from before.
        return {
            "known": clock.is_known,
            "source": clock.source,
            "since": clock.since_ms,
            "machine_ahead_ms": clock.apart_ms,
            "corrected": asdict(clock.corrections[-1]) if clock.corrections else None,
            "core": self.core.refused or None,
            "journal": self.held.waiting(),
            "damaged": self.held.journal.damaged or None,
            **self.held.counts,
        }
