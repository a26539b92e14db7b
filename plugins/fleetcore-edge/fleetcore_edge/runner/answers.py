"""The worker's answers: taken from its socket as they come, and as outputs."""

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from fleetcore_edge.runner import frames
from fleetcore_edge.runner.records import Batch, EdgeAlert, EdgeCommand, Output


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer says beside numbers."""

    code: str = ""
    reason: str = ""
    log: list[str] = []
    series: list[tuple[str, str, str]] = []
    alerts: list[tuple[str, str, str, str, str, float, int]] = []
    commands: list[tuple[str, str, str]] = []


_decoder = msgspec.json.Decoder(Said)
_NOTHING = Said()


class Answer(NamedTuple):
    """One answer.

    Attributes:
        stopped: whether the request failed; `said` has the code and the reason.
        same: whether the readings belong to the series of the input.
        fuel, us, memory_kib: what the function has taken.
        columns: index, time and value.
    """

    stopped: bool
    same: bool
    fuel: int
    us: int
    memory_kib: int
    said: Said
    columns: tuple["array[int]", "array[int]", "array[float]"]

    def output(self, batch: Batch, may: frozenset[str]) -> Output:
        """The output of a batch; what the function may not put out is dropped, and counted."""
        said = self.said
        index, time, value = self.columns
        readings = Batch(series=batch.series if self.same else said.series, at=index, time=time, value=value)
        if said is _NOTHING and (not index or "readings" in may):
            return Output(readings=readings)
        kinds = {"readings": len(index), "alerts": len(said.alerts), "commands": len(said.commands)}
        dropped = {kind: count for kind, count in kinds.items() if count and kind not in may}
        return Output(
            readings=Batch() if "readings" in dropped else readings,
            alerts=() if "alerts" in dropped else [EdgeAlert(*alert) for alert in said.alerts],
            commands=() if "commands" in dropped else [EdgeCommand(*command) for command in said.commands],
            log=said.log,
            dropped=dropped,
        )


class Incoming:
    """The stream of answers, cut into answers."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: memoryview) -> Iterator[Answer]:
        """The answers that these bytes complete. Nothing refers to them afterwards.

        Raises:
            ValueError: they are no answers; so the worker is not what it was.
        """
        if self._kept:
            data = memoryview(self._kept + data)
        begin, end = 0, len(data)
        while end - begin >= frames.ANSWER.size:
            length, *numbers = frames.ANSWER.unpack_from(data, begin)
            behind = begin + frames.LENGTH.size + length
            if behind > end:
                break
            yield _answer(data[begin + frames.ANSWER.size : behind], *numbers)
            begin = behind
        self._kept = bytes(data[begin:])


def _answer(rest: memoryview, outcome: int, same: bool, *numbers: Any) -> Answer:
    fuel, us, memory_kib, document, count = numbers
    try:
        said = _decoder.decode(rest[:document]) if document else _NOTHING
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    index, time, value = array("I"), array("q"), array("d")
    if count:
        begin, middle = document + 4 * count, document + 12 * count
        index.frombytes(rest[document:begin])
        time.frombytes(rest[begin:middle])
        value.frombytes(rest[middle:])
    return Answer(outcome == frames.STOPPED, same, fuel, us, memory_kib, said, (index, time, value))
