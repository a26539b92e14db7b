"""The ``log`` notifier: one line per anomaly in the server's own log. Only readers of that log see it."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore.interfaces.notifier import Notifier
from fleetcore.interfaces.provider import Context
from fleetcore.model.anomaly import Anomaly, Severity
from fleetcore.wire.times import format_time

_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.CRITICAL}


@frozen(kw_only=True)
class LogConfig:
    """``[notifiers.log]`` has no keys."""


class LogNotifier(Notifier):
    """Writes to a logger, at the level that the severity has there."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    async def notify(self, anomalies: Sequence[Anomaly]) -> None:
        for anomaly in anomalies:
            line = (
                f"{anomaly.severity.value} {anomaly.device} {anomaly.metric} at {format_time(anomaly.time)}: "
                f"{anomaly.explanation} (detector {anomaly.detector}, anomaly {anomaly.id})"
            )
            self._logger.log(_LEVELS[anomaly.severity], "%s", one_line(line))


def one_line(text: str) -> str:
    """``text`` without control and format characters: a plugin's text cannot forge log lines or terminal escapes."""
    return "".join(char if char.isprintable() else " " for char in text)


@asynccontextmanager
async def open_log(config: LogConfig, context: Context) -> AsyncIterator[LogNotifier]:
    """Opens the notifier on the instance's logger."""
    del config
    yield LogNotifier(context.logger)
