"""Bulk import: readings of many devices that are already columns, on their way into the store.

The rules are those of :mod:`.validate`, applied to a series or a column at a time. Each reading has a time, so device,
metric and time identify it: importing a part again changes nothing, and an interrupted import can be repeated. Presence
and lifecycle do not change.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.kinds import EXACT
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.telemetry import NO_SEQ, Int64, Quality, Tally, TelemetryBatch, TextReading
from fleetcore.model.units import convert
from fleetcore.pipeline.dry_run import dry_run
from fleetcore.pipeline.session import DeviceState
from fleetcore.pipeline.validate import check_new_metric
from fleetcore.wire.times import EARLIEST_MS, LATEST_MS

#: (device, metric, unit)
Name = tuple[str, str, str | None]
Value = float | bool | str


@frozen(eq=False)
class Part:
    """Some readings as columns.

    Attributes:
        series: the series that ``at`` indexes; for a metric without a unit the first unit applies to all.
        at, time: each reading's series, and its time, ms since the epoch.
        value: each reading's value.
        before: how many of the first readings a dry run regards as stored and does not count.
    """

    series: Sequence[Name]
    at: Int64
    time: Int64
    value: Sequence[Value]
    before: int = 0


@frozen(kw_only=True)
class Imported:
    """The outcome of a part; ``refused`` has the positions of refused readings, ``codes`` the code for each."""

    tally: Tally
    refused: Int64
    codes: Sequence[str]

    @property
    def reasons(self) -> Mapping[str, int]:
        """The number of refused readings by code."""
        return Counter(self.codes)


class Bulk:
    """Checks parts and stores what is valid, in a commit each."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self._storage, self._clock, self._limits = storage, clock, limits

    async def put(self, part: Part, states: Mapping[str, DeviceState | str], *, dry_run: bool) -> Imported:
        """Stores a part; it is durable on return. ``states`` has each device, or the code of why it has none.

        With ``dry_run`` nothing is stored, and the result is that of a real run now.

        Raises Refused if a part has uncounted readings outside a dry run.
        """
        if part.before and not dry_run:
            raise Refused(
                "Only a dry run may have a part with readings before it", code="schema_invalid", pointer="/before"
            )
        now = self._clock.now_ms()
        codes = np.zeros(len(part.at), np.uint8)
        known: list[str] = [""]

        def refuse(which: npt.NDArray[np.bool_], code: str) -> None:
            if code not in known:
                known.append(code)
            codes[which & (codes == 0)] = known.index(code)

        indices, scale = await self._series(part, states, refuse, dry_run=dry_run)
        time = part.time
        refuse((time < EARLIEST_MS) | (time > LATEST_MS), "time_unit")
        refuse(time > now + self._limits.future_ms, "time_in_future")
        text, truth, value = _columns(part.value)
        refuse(~text & ~np.isfinite(value), "number_not_finite")
        for place in np.flatnonzero(np.abs(value) >= EXACT).tolist():
            given: object = part.value[place]
            if type(given) is int and abs(given) > EXACT:
                refuse(np.arange(len(codes)) == place, "number_inexact")
        taken = codes == 0
        tally = Tally()
        if taken.any():
            _in_the_stores_unit(part, scale, (text, truth, value), taken)
            if dry_run:
                tally = await self._dry_run(part, (text, value), taken)
            else:
                tally = await self._commit(part, indices, (text, truth, value), taken, states, now)
        refused = np.flatnonzero(~taken)
        refused = refused[refused >= part.before]
        return Imported(
            tally=tally + Tally(refused=len(refused)),
            refused=refused,
            codes=[known[i] for i in codes[refused].tolist()],
        )

    async def _series(
        self,
        part: Part,
        states: Mapping[str, DeviceState | str],
        refuse: Callable[[npt.NDArray[np.bool_], str], None],
        *,
        dry_run: bool,
    ) -> tuple[Int64, list[tuple[str, str] | None]]:
        """The store's index of each of the part's series, and the unit conversions, if any."""
        used = np.zeros(len(part.series), np.bool_)
        used[part.at] = True
        units: dict[tuple[str, str], str] = {}
        for device, metric, unit in part.series:
            if unit is not None:
                units.setdefault((device, metric), unit)
        catalog = self._storage.catalog
        requests: dict[tuple[str, str], SeriesRequest] = {}
        faults: dict[int, str] = {}
        fresh: dict[str, set[str]] = {}
        conversions: list[tuple[str, str] | None] = []
        for place, (device, metric, unit) in enumerate(part.series):
            state = states.get(device, "device_unknown")
            found = catalog.find(device, metric)
            code = state if isinstance(state, str) else state.blocked
            if code is None and not isinstance(state, str) and found is None:
                new = fresh.setdefault(device, set())
                if metric not in new:
                    code = check_new_metric(metric, len(state.metrics) + len(new), self._limits)
                    if code is None:
                        new.add(metric)
            stored = (None if found is None else found.unit) or units.get((device, metric))
            conversion = None
            if code is None and unit is not None and stored is not None and unit != stored:
                conversion = unit, stored
                if convert(0.0, unit, stored) is None:
                    code = "unit_mismatch"
            conversions.append(conversion)
            if code is not None:
                faults[place] = code
            elif used[place] and (found is None or found.unit is None):
                requests[device, metric] = SeriesRequest(device, metric, stored)
        for place, code in faults.items():
            if used[place]:
                refuse(part.at == place, code)
        if dry_run:
            return np.zeros(len(part.series), np.int64), conversions
        for series in await self._storage.intern(list(requests.values())) if requests else ():
            state = states[series.device]
            if not isinstance(state, str):
                state.metrics[series.metric] = series.index
        indices = np.zeros(len(part.series), np.int64)
        for place, (device, metric, _) in enumerate(part.series):
            found = catalog.find(device, metric)
            if found is not None:
                indices[place] = found.index
        return indices, conversions

    async def _dry_run(
        self,
        part: Part,
        columns: "tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]",
        taken: npt.NDArray[np.bool_],
    ) -> Tally:
        text, value = columns
        places = np.flatnonzero(taken)
        return await dry_run(
            self._storage,
            [(device, metric) for device, metric, _ in part.series],
            part.at[places],
            part.time[places],
            [str(part.value[i]) if text[i] else float(value[i]) + 0.0 for i in places.tolist()],
            counted_from=int((places < part.before).sum()),
        )

    async def _commit(
        self,
        part: Part,
        indices: Int64,
        columns: "tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]",
        taken: npt.NDArray[np.bool_],
        states: Mapping[str, DeviceState | str],
        now: int,
    ) -> Tally:
        text, truth, value = columns
        quality = np.array(
            [0 if isinstance(state := states.get(device, ""), str) else state.quality for device, _, _ in part.series],
            np.uint8,
        )[part.at]
        quality[truth] |= np.uint8(Quality.BOOLEAN)
        numbers = np.flatnonzero(taken & ~text)
        batch = TelemetryBatch.of(
            indices[part.at[numbers]], part.time[numbers], value[numbers] + 0.0,
            received=now, quality=quality[numbers],
        )  # fmt: skip
        texts = tuple(
            TextReading(int(indices[part.at[i]]), int(part.time[i]), now, str(part.value[i]), int(quality[i]), NO_SEQ)
            for i in np.flatnonzero(taken & text).tolist()
        )
        done = await self._storage.commit(Commit(readings=batch if len(batch) else None, texts=texts))
        return done.tally


def _in_the_stores_unit(
    part: Part,
    conversions: Sequence[tuple[str, str] | None],
    columns: "tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]",
    taken: npt.NDArray[np.bool_],
) -> None:
    """Converts the numbers of series whose unit differs from the stored one."""
    text, truth, value = columns
    for place, conversion in enumerate(conversions):
        if conversion is not None:
            which = np.flatnonzero((part.at == place) & taken & ~text)
            for at in which.tolist():
                value[at] = convert(float(value[at]), *conversion)
            truth[which] = False


def _columns(
    given: Sequence[Value],
) -> "tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]":
    """Which values are text, which are booleans, and the numbers; 0.0 in place of text."""
    kinds = set(map(type, given))
    n = len(given)
    text, truth = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    if str in kinds:
        text = np.fromiter((type(value) is str for value in given), np.bool_, n)
    if bool in kinds:
        truth = np.fromiter((type(value) is bool for value in given), np.bool_, n)
    plain = [0.0 if type(value) is str else value for value in given] if str in kinds else given
    return text, truth, np.array(plain, np.float64)
