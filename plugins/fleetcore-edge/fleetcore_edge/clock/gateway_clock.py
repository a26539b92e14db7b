"""A clock for a machine whose wall clock may be wrong.

The time is an offset and the time since the machine's start, which no setting of the wall clock changes. While the
offset is not known, the time is an estimate that is not after the true time and never goes back within a boot.

The offset is known by the machine's own clock where that is plausible, or by the core, whose time wins where the two
differ by more than ``APART_MS``.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from attrs import field, frozen

from fleetcore.interfaces.clock import Clock
from fleetcore.wire.times import EARLIEST_MS, LATEST_MS, format_time
from fleetcore_edge.clock.boots import Boot, Times, read_times, write_times
from fleetcore_edge.clock.machine import Machine

_log = logging.getLogger(__name__)

#: The file, in the data folder.
FILE = Path("clock") / "clock.json"
#: The machine's clock and the core's may be so far apart: NTP keeps clocks closer, and answers of the core take less.
APART_MS = 5_000
#: A wall clock that is so far after the last known time is doubted, unless the kernel says that it is synchronised:
#: retention would delete everything by a clock in 2038.
_AHEAD_MS = 366 * 86_400_000
#: No gateway has run before: 2026-01-01.
_FIRST_MS = 1_767_225_600_000
_LOOK_S, _SAVE_S = 1.0, 300.0
MACHINE, CORE, ESTIMATE = "machine", "core", "estimate"


@frozen(kw_only=True)
class Correction:
    """The clock was wrong, and follows the core since.

    Attributes:
        at_ms: when, by the core's time.
        by_ms: what was added to the clock.
        since_ms: since when it had been wrong, by the wrong clock: times from there to ``until_ms`` stay as they are.
    """

    at_ms: int
    by_ms: int
    since_ms: int
    until_ms: int


@frozen(kw_only=True)
class Dated:
    """The wall clock at the start of a boot, for its messages; an ``estimated`` one is not before ``earliest_ms``."""

    offset_ms: int
    estimated: bool = False
    earliest_ms: int = 0


@frozen(kw_only=True)
class _State:
    offset_ms: int
    source: str
    known: bool
    since_ms: int = field(default=0)


class GatewayClock(Clock):
    """The clock of a gateway's own fleet.

    Args:
        folder: the data folder; nothing is written before :meth:`begin`.
        floor_ms: a time that has certainly passed, such as the start of the gateway's certificate.
        trust: believe the machine's clock wherever it is plausible, even against the core.

    Attributes:
        became_known: set once the time is known.
        corrections: the newest corrections of a wrong clock.
        apart_ms: the machine's clock minus the core's, when the core was asked last, or None.
    """

    def __init__(self, folder: Path, machine: Machine, *, floor_ms: int = 0, trust: bool = False) -> None:
        self._file, self._machine, self._trust = folder / FILE, machine, trust
        self._times: Times = read_times(self._file)
        self._certain_ms = max(floor_ms, _FIRST_MS)
        self._boot = machine.boot_id()
        self._begun = False
        self.became_known = asyncio.Event()
        self._changed: Callable[[], None] = lambda: None
        self.corrections: list[Correction] = []
        self.apart_ms: int | None = None
        self._stepped, self._why = False, ""
        now, wall = machine.boottime_ms(), machine.wall_ms()
        floor = max(self._times.floor_ms, self._certain_ms)
        self._wall_offset = wall - now
        found = self._found(self._boot)
        if found is None:
            found = Boot(id=self._boot, estimate_ms=floor - now, last_ms=now)
        elif found.present_ms is None:
            # The gateway may have a newer certificate than at the first start of this boot.
            found = msgspec.structs.replace(found, estimate_ms=max(found.estimate_ms, self._certain_ms - now))
        others = (each for each in self._times.boots if each.id != self._boot)
        self._times = Times(floor_ms=self._times.floor_ms, boots=(*others, found))
        self._state = self._first(found, now, wall, floor)
        self._saved_s = time.monotonic()
        if self._state.known:
            self.became_known.set()

    def _found(self, boot: str) -> Boot | None:
        return next((each for each in self._times.boots if each.id == boot), None)

    def _first(self, boot: Boot, now: int, wall: int, floor: int) -> _State:
        if boot.present_ms is not None:
            set_anew = boot.present_source == MACHINE and self._machine.is_synchronised() and not self._doubt(wall, 0)
            if set_anew or abs(wall - now - boot.present_ms) <= APART_MS:
                return _State(offset_ms=wall - now, source=MACHINE, known=True, since_ms=wall)
            # An earlier process of this boot knew better.
            return _State(
                offset_ms=boot.present_ms, source=boot.present_source, known=True, since_ms=now + boot.present_ms
            )
        self._why = self._doubt(wall, floor)
        if not self._why:
            return _State(offset_ms=wall - now, source=MACHINE, known=True, since_ms=wall)
        return _State(offset_ms=boot.estimate_ms, source=ESTIMATE, known=False, since_ms=now + boot.estimate_ms)

    def _doubt(self, wall: int, floor: int) -> str:
        """Why the machine's clock is not believed, or an empty text."""
        if not EARLIEST_MS <= wall <= LATEST_MS:
            return f"the machine's clock says {format_time(wall)}"
        synchronised = self._machine.is_synchronised()
        # What was written down may be from a clock that was ahead; NTP sets a clock back a little.
        if wall < max(self._certain_ms, 0 if synchronised else floor - APART_MS):
            return f"the machine's clock says {format_time(wall)}, before the last known time"
        if self._trust or synchronised:
            return ""
        if wall > floor + _AHEAD_MS:
            return f"the machine's clock says {format_time(wall)}, over a year after the last known time"
        if self._machine.may_forget() and not self._stepped:
            return "the machine has no battery-backed clock, and its clock is not synchronised"
        return ""

    # -- the interface ------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self._machine.boottime_ms() + self._state.offset_ms

    @property
    def is_known(self) -> bool:
        return self._state.known

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """Where the time is from: ``machine``, ``core`` or ``estimate``."""
        return self._state.source

    @property
    def since_ms(self) -> int:
        """Since when it is from there."""
        return self._state.since_ms

    @property
    def boot(self) -> str:
        """The present boot."""
        return self._boot

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls ``changed`` when the time is known from elsewhere, or was corrected."""
        self._changed = changed

    def boottime_of(self, time_ms: int) -> int:
        """The time since the machine's start of an estimate that this process made."""
        return time_ms - self._present().estimate_ms

    def boottime_ms(self) -> int:
        """The time since the machine's start."""
        return self._machine.boottime_ms()

    def _present(self) -> Boot:
        found = self._found(self._boot)
        assert found is not None
        return found

    def begin(self, held: Sequence[tuple[str, int]]) -> None:
        """Writes down what is known, from now on; raises OSError.

        Args:
            held: the boots with held messages, the oldest first, each with the last time since its start.
        """
        self._begun = True
        last = dict(held)
        known = {each.id: each for each in self._times.boots}
        order = [*dict.fromkeys((*(boot for boot, _ in held if boot not in known), *known))]
        floor = max(self._times.floor_ms, self._certain_ms)
        boots = []
        for boot in order:
            # One that the file does not know: it was damaged.
            each = known.get(boot) or Boot(id=boot, estimate_ms=floor - last[boot], last_ms=last[boot])
            if boot in last or boot == self._boot:
                boots.append(msgspec.structs.replace(each, last_ms=max(each.last_ms, last.get(boot, 0))))
        self._times = Times(floor_ms=self._times.floor_ms, boots=tuple(boots))
        if self._state.known:
            self._know(self._state.offset_ms, self._state.source)
        else:
            _log.warning(
                "The time is not known: %s. Readings wait until the core tells it, or the machine's clock is set. Let "
                "the machine have NTP, or a battery-backed clock",
                self._why,
            )
            self.save()

    def dated(self, boot: str) -> Dated | None:
        """By what the messages of a boot are dated; None while that is not decided."""
        found = self._found(boot)
        if found is None or found.offset_ms is None:
            return None
        return Dated(
            offset_ms=found.offset_ms, estimated=found.source == ESTIMATE,
            earliest_ms=min(found.estimate_ms, found.offset_ms),
        )  # fmt: skip

    # -- learning the time --------------------------------------------------------------------------------------------

    def told(self, core_ms: int, *, half_ms: int) -> bool:
        """The core has told its time; ``half_ms`` is half of the round trip, and so the answer's uncertainty.

        Returns whether it is believed.
        """
        now = self._machine.boottime_ms()
        if not max(self._certain_ms, EARLIEST_MS) <= core_ms <= LATEST_MS:
            _log.error(
                "The core says that it is %s, which is before the gateway's own certificate (%s): it is not believed; "
                "set the core's clock",
                format_time(core_ms), format_time(self._certain_ms),
            )  # fmt: skip
            return False
        self.apart_ms = self._machine.wall_ms() - core_ms
        offset, state = core_ms - now, self._state
        if not state.known:
            self._know(offset, CORE)
            return True
        apart = offset - state.offset_ms
        if abs(apart) <= APART_MS + half_ms:
            if state.source == CORE:
                self._state = _State(offset_ms=offset, source=CORE, known=True, since_ms=state.since_ms)
            return True
        if self._trust:
            _log.warning(
                "The gateway's clock is %+.1f s from the core's, and stays: the setting clock is trust", -apart / 1000
            )
            return True
        until = now + state.offset_ms
        _log.error(
            "The gateway's clock was wrong by %+.1f s and follows the core's. Times from %s to %s stay as they are; "
            "set the machine's clock, by NTP or by hand",
            -apart / 1000, format_time(state.since_ms), format_time(until),
        )  # fmt: skip
        self.corrections.append(Correction(at_ms=core_ms, by_ms=apart, since_ms=state.since_ms, until_ms=until))
        del self.corrections[:-10]
        self._know(offset, CORE)
        return True

    def look(self) -> None:
        """Looks at the machine's clock; call it every second or so. Raises OSError."""
        now, wall = self._machine.boottime_ms(), self._machine.wall_ms()
        offset, state = wall - now, self._state
        step, self._wall_offset = offset - self._wall_offset, offset
        self._stepped = self._stepped or abs(step) > APART_MS
        if not state.known:
            if not self._doubt(wall, now + state.offset_ms):
                self._know(offset, MACHINE)
        elif abs(offset - state.offset_ms) <= APART_MS:
            agrees = state.source != MACHINE
            since = wall if agrees else state.since_ms
            self._state = _State(offset_ms=offset, source=MACHINE, known=True, since_ms=since)
            if agrees:
                self._changed()
        elif abs(step) > APART_MS and state.source == MACHINE:
            self._follow(offset, wall, now + state.offset_ms)
        if time.monotonic() - self._saved_s >= _SAVE_S:
            self.save()

    def _follow(self, offset: int, wall: int, before: int) -> None:
        """The machine's clock was set while its time was this clock's."""
        doubt = self._doubt(wall, before)
        if doubt:
            _log.error("The machine's clock was set, and is not followed until the core agrees: %s", doubt)
            return
        _log.warning("The machine's clock was set, by %+.1f s", (wall - before) / 1000)
        self._know(offset, MACHINE)

    def _know(self, offset: int, source: str) -> None:
        """Decides, first on the disk."""
        now = self._machine.boottime_ms()
        first = not self._state.known
        if self._begun:
            self._write(Times(floor_ms=now + offset, boots=self._decided(offset, source, now)))
        self._state = _State(offset_ms=offset, source=source, known=True, since_ms=now + offset)
        self.became_known.set()
        self._changed()
        if first:
            _log.warning("The time is known from the %s: %s", source, format_time(now + offset))

    def _decided(self, offset: int, source: str, now: int) -> tuple[Boot, ...]:
        """The boots with a decision each. An earlier one's last message is not after the start of the next."""
        decided: list[Boot] = []
        next_ms = offset
        for boot in reversed(self._times.boots):
            found = boot
            if boot.id == self._boot:
                found = msgspec.structs.replace(found, last_ms=now, present_ms=offset, present_source=source)
                if found.offset_ms is None:
                    found = msgspec.structs.replace(found, offset_ms=offset, source=source)
            elif found.offset_ms is None:
                found = msgspec.structs.replace(found, offset_ms=next_ms - found.last_ms, source=ESTIMATE)
            assert found.offset_ms is not None
            next_ms = found.offset_ms
            decided.append(found)
        return tuple(reversed(decided))

    def save(self) -> None:
        """Writes down the time. Raises OSError."""
        if not self._begun:
            return
        now = self._machine.boottime_ms()
        boots = tuple(
            each
            if each.id != self._boot
            else msgspec.structs.replace(each, last_ms=max(each.last_ms, now), **self._present_of())
            for each in self._times.boots
        )
        floor = now + self._state.offset_ms
        self._write(Times(floor_ms=floor if self._state.known else max(floor, self._times.floor_ms), boots=boots))

    def _present_of(self) -> dict[str, object]:
        state = self._state
        return {"present_ms": state.offset_ms, "present_source": state.source} if state.known else {}

    def _write(self, times: Times) -> None:
        write_times(self._file, times)
        self._times = times
        self._saved_s = time.monotonic()

    async def run(self) -> None:
        """Looks at the machine's clock until cancelled."""
        failed = ""
        while True:
            try:
                self.look()
                failed = ""
            except OSError as error:
                if failed != str(error):
                    _log.error("The time cannot be written down: %s", error)
                failed = str(error)
            await self.sleep(_LOOK_S)
