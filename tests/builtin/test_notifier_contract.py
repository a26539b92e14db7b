"""The log notifier passes the contract and forges no lines; broken notifiers do not pass."""

import logging

import pytest

from fleetcore.builtin.log_notifier import LogNotifier
from fleetcore.interfaces.notifier import Notifier
from fleetcore.model.anomaly import Severity
from fleetcore.testing.notifier_contract import NotifierContract, anomaly


@pytest.fixture
def logger(caplog):
    caplog.set_level(logging.DEBUG)
    return logging.getLogger("fleetcore.test.notifier")


class TestLogNotifier(NotifierContract):
    @pytest.fixture
    def notifier(self, logger):
        return LogNotifier(logger)

    @pytest.fixture
    def delivered(self, caplog):
        return lambda: caplog.messages


async def test_a_line_says_what_where_and_when(logger, caplog):
    await LogNotifier(logger).notify([anomaly(250, severity=Severity.CRITICAL)])

    line = (
        "critical sensor-1 temperature at 2026-01-01T00:00:00.250Z: 30 where 20 was expected "
        "(detector outliers, anomaly anomaly-000250)"
    )
    assert caplog.messages == [line]
    assert caplog.records[0].levelno == logging.CRITICAL


async def test_a_plugin_s_text_forges_no_line_and_no_terminal_escape(logger, caplog):
    await LogNotifier(logger).notify([anomaly(1, explanation="hot\r\n\x1b[2J\u2028\u202efake %s {x}")])

    assert "\n" not in caplog.messages[0]
    assert caplog.messages[0].isprintable()
    assert "fake %s {x}" in caplog.messages[0]


class Sink(Notifier):
    """Keeps what it is told; a subclass does one thing wrong."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def notify(self, anomalies):
        self.kept += [one.id for one in anomalies]


class LosesTheLast(Sink):
    async def notify(self, anomalies):
        await super().notify(anomalies[:-1])


class Shuffles(Sink):
    async def notify(self, anomalies):
        await super().notify(anomalies[::-1])


class ReturnsTooEarly(Sink):
    async def notify(self, anomalies):
        self.later = anomalies


class ChokesOnEmpty(Sink):
    async def notify(self, anomalies):
        self.kept.append(anomalies[0].id)
        await super().notify(anomalies[1:])


class ChokesOnControlCharacters(Sink):
    async def notify(self, anomalies):
        for one in anomalies:
            if not one.explanation.isprintable():
                raise ValueError(one.explanation)
        await super().notify(anomalies)


class NeedsAnExpectation(Sink):
    async def notify(self, anomalies):
        for one in anomalies:
            self.kept.append(f"{one.id} {one.expected:g}")


class Swallows(Sink):
    async def notify(self, anomalies):
        pass


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (LosesTheLast, "test_all_anomalies_have_arrived_in_order_when_it_returns"),
        (Shuffles, "test_all_anomalies_have_arrived_in_order_when_it_returns"),
        (ReturnsTooEarly, "test_all_anomalies_have_arrived_in_order_when_it_returns"),
        (ChokesOnEmpty, "test_nothing_is_delivered_for_no_anomaly"),
        (Swallows, "test_a_repeat_is_delivered_or_known"),
        (ChokesOnControlCharacters, "test_hostile_text_is_delivered_too"),
        (NeedsAnExpectation, "test_every_severity_and_an_unknown_expectation_are_delivered"),
        (Swallows, "test_a_sink_out_of_reach_is_an_exception"),
    ],
)
async def test_the_contract_bites(broken, test):
    sink = broken()
    given = {"notifier": sink, "delivered": lambda: sink.kept, "unreachable": sink}
    method = getattr(NotifierContract(), test)
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]

    # pytest.raises reports with an exception of its own, which is no Exception.
    with pytest.raises(BaseException) as failure:
        await method(**{name: given[name] for name in wanted})

    assert isinstance(failure.value, (AssertionError, IndexError, TypeError, ValueError, pytest.fail.Exception))
    assert str(failure.value).strip(), "a bare failure shows nothing"
