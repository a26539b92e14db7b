"""The contract of :class:`~fleetcore.interfaces.notifier.Notifier`: delivers all in order, or reports failure."""

from collections.abc import Callable, Sequence

import pytest

from fleetcore.interfaces.notifier import Notifier
from fleetcore.model.anomaly import Anomaly, Severity
from fleetcore.testing.contract import Contract, missing


def anomaly(number: int, *, explanation: str = "30 where 20 was expected", **changes: object) -> Anomaly:
    """An anomaly to be notified; ``number`` makes id and time."""
    plain: dict[str, object] = {
        "id": f"anomaly-{number:06}",
        "detector": "outliers",
        "device": "sensor-1",
        "metric": "temperature",
        "time": 1_767_225_600_000 + number,
        "observed": 30.0,
        "expected": 20.0,
        "score": 2.5,
        "severity": Severity.WARNING,
        "explanation": explanation,
    }
    return Anomaly(**plain | changes)  # type: ignore[arg-type]  # the caller's members are the record's


@pytest.mark.asyncio
class NotifierContract(Contract):
    """Override ``notifier`` and ``delivered``, and ``unreachable`` if the sink can be unreachable."""

    @pytest.fixture
    def notifier(self) -> Notifier:
        """The opened notifier."""
        raise missing(self, "notifier")

    @pytest.fixture
    def delivered(self) -> Callable[[], Sequence[str]]:
        """What arrived at the sink, read independently of the notifier: texts with the anomalies' ids, in order."""
        raise missing(self, "delivered")

    @pytest.fixture
    def unreachable(self) -> Notifier | None:
        """A notifier whose sink does not answer; None if that is impossible."""
        return None

    async def test_all_anomalies_have_arrived_in_order_when_it_returns(
        self, notifier: Notifier, delivered: Callable[[], Sequence[str]]
    ) -> None:
        ids = [f"anomaly-{number:06}" for number in range(20)]

        await notifier.notify([anomaly(number) for number in range(12)])
        await notifier.notify([anomaly(number) for number in range(12, 20)])

        assert _ids(delivered()) == ids

    async def test_nothing_is_delivered_for_no_anomaly(
        self, notifier: Notifier, delivered: Callable[[], Sequence[str]]
    ) -> None:
        await notifier.notify([])

        assert _ids(delivered()) == []

    async def test_a_repeat_is_delivered_or_known(
        self, notifier: Notifier, delivered: Callable[[], Sequence[str]]
    ) -> None:
        await notifier.notify([anomaly(1)])
        await notifier.notify([anomaly(1), anomaly(2)])

        assert list(dict.fromkeys(_ids(delivered()))) == ["anomaly-000001", "anomaly-000002"]

    async def test_hostile_text_is_delivered_too(
        self, notifier: Notifier, delivered: Callable[[], Sequence[str]]
    ) -> None:
        texts = ["a\r\nb", "\x1b[2J\x00", "{value} %s %n", "<b>&\"'", "\u202e\u2028", "é 温度 🌡", "x" * 5000, ""]

        await notifier.notify([anomaly(number, explanation=text) for number, text in enumerate(texts)])

        assert _ids(delivered()) == [f"anomaly-{number:06}" for number in range(len(texts))]

    async def test_every_severity_and_an_unknown_expectation_are_delivered(
        self, notifier: Notifier, delivered: Callable[[], Sequence[str]]
    ) -> None:
        await notifier.notify(
            [anomaly(number, severity=severity, expected=None) for number, severity in enumerate(Severity)]
        )

        assert _ids(delivered()) == [f"anomaly-{number:06}" for number in range(len(Severity))]

    async def test_a_reading_that_did_not_come_is_delivered(
        self, notifier: Notifier, delivered: Callable[[], Sequence[str]]
    ) -> None:
        await notifier.notify([anomaly(1, observed=None, expected=None, explanation="no reading for 600 s")])

        assert _ids(delivered()) == ["anomaly-000001"]

    async def test_a_sink_out_of_reach_is_an_exception(self, unreachable: Notifier | None) -> None:
        if unreachable is None:
            pytest.skip("this notifier's sink cannot be unreachable")

        with pytest.raises(Exception):  # noqa: B017, PT011 - whichever: it makes the core try again
            await unreachable.notify([anomaly(1)])


def _ids(texts: Sequence[str]) -> list[str]:
    return [text[at : at + 14] for text in texts if (at := text.find("anomaly-0")) >= 0]
