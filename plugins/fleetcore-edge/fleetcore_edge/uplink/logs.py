"""The newest lines of the log of the agent and of its functions, which the core asks for by ``edge.logs``."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fleetcore.errors import Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.wire.messages import OUTPUT_BYTES
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time

#: How many lines are kept in memory, and the most characters of one.
_LINES, _LINE = 2000, 2000


class LogKeeper(logging.Handler):
    """Keeps the newest lines, with the time of a clock: the machine's may be wrong."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.INFO)
        self._clock = clock
        self._lines: deque[dict[str, object]] = deque(maxlen=_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # as logging itself: a wrong format stops nothing
            text = str(record.msg)
        line = {"time": format_time(self._clock.now_ms()), "level": record.levelname, "from": record.name}
        self._lines.append({**line, "text": text[:_LINE]})

    async def logs(self, arguments: Mapping[str, object], _progress: Callable[[float], None]) -> object:
        """The last ``lines`` lines, 100 by default, of the ``function`` or of all; fewer where the output is full.

        Raises:
            Refused: an argument is wrong.
        """
        wanted, function = arguments.get("lines", 100), arguments.get("function")
        if type(wanted) is not int or not 1 <= wanted <= _LINES:
            raise Refused(f"lines is a number from 1 to {_LINES}", pointer="/lines")
        if function is not None and not isinstance(function, str):
            raise Refused("function is the name of a function", pointer="/function")
        begins = ("",) if function is None else (f"Function {function}:", f"Function {function} ")
        found = [line for line in self._lines if str(line["text"]).startswith(begins)]
        kept: list[dict[str, object]] = []
        size = len(dumps({"lines": [], "cut": False}))
        for line in reversed(found[-wanted:]):
            size += len(dumps(line)) + 1
            if size > OUTPUT_BYTES:
                break
            kept.append(line)
        return {"lines": kept[::-1], "cut": len(kept) < min(wanted, len(found))}


@contextmanager
def kept_log(clock: Clock) -> Iterator[LogKeeper]:
    """Keeps what is logged meanwhile."""
    keeper, root = LogKeeper(clock), logging.getLogger()
    root.addHandler(keeper)
    try:
        yield keeper
    finally:
        root.removeHandler(keeper)
