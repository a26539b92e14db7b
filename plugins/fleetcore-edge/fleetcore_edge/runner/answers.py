"""The worker's answers: taken from its socket as they come, and as outputs."""

from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from attrs import frozen

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


@frozen
class Answer:
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
        kinds: dict[str, int] = {"readings": len(index), "alerts": len(said.alerts), "commands": len(said.commands)}
        dropped: Mapping[str, int] = {kind: count for kind, count in kinds.items() if count and kind not in may}
        readings = Batch(series=batch.series if self.same else said.series, at=index, time=time, value=value)
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

    def feed(self, data: bytes) -> Iterator[Answer]:
        """The answers that these bytes complete.

        Raises:
            ValueError: they are no answers; so the worker is not what it was.
        """
        data = self._kept + data if self._kept else data
        begin, end = 0, len(data)
        while end - begin >= frames.ANSWER.size:
            length, *numbers = frames.ANSWER.unpack_from(data, begin)
            behind = begin + frames.LENGTH.size + length
            if behind > end:
                break
            yield _answer(memoryview(data)[begin + frames.ANSWER.size : behind], *numbers)
            begin = behind
        self._kept = data[begin:]


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
