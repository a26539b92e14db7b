"""What comes long after its time is listed as late, and is no news for notifiers."""

import sys

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import ConfigError
from fleetcore.model.message import Inbound
from fleetcore.testing.clock import MovableClock
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps

HOUR_MS = 3_600_000
PLUGIN = """
from contextlib import asynccontextmanager
from attrs import frozen
from fleetcore import hookimpl, offer_notifier
from fleetcore.interfaces import Notifier

SENT = []

@frozen(kw_only=True)
class Config:
    name: str

class Kept(Notifier):
    def __init__(self, name):
        self._name = name
    async def notify(self, anomalies):
        SENT.extend((self._name, each.explanation) for each in anomalies)

@asynccontextmanager
async def opened(config, context):
    yield Kept(config.name)

@hookimpl
def fleetcore_notifiers():
    yield offer_notifier("kept", Config, opened)
"""
TOML = """
[fleet]
plugins = ["./kept.py"]
[detectors.too-hot]
kind = "threshold"
above = 60
[notifiers.news]
kind = "kept"
name = "news"
[notifiers.all]
kind = "kept"
name = "all"
late = {late}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kept.py").write_text(PLUGIN)
    tmp_path.chmod(0o700)
    return tmp_path


async def test_a_backlog_is_no_news(folder):
    (folder / "fleet.toml").write_text(TOML.format(late="true"))
    clock = MovableClock()
    async with IoTFleetManager(folder, clock=clock, create=True) as manager:
        await manager.register_device("d", "sensor")
        fleet = await manager.open()
        now = clock.now_ms()
        await manager.collect_telemetry("d", "t", 70.0, time=now - HOUR_MS)
        await manager.collect_telemetry("d", "u", 80.0, time=now)
        session = await fleet.sessions.of("d")
        for time, value in ((now - HOUR_MS + 1, 90.0), (now - 1, 91.0)):
            alert = {"detector": "edge", "metric": "t", "time": time, "value": value, "text": f"edge {value:g}"}
            await tell(fleet, session, alert)
        for consumer in fleet.consumers:
            await consumer.catch_up()
        found = {each["explanation"]: each["late"] for each in await manager.call("list_anomalies", device="d")}
        (sent,) = (module.SENT for name, module in [*sys.modules.items()] if name.endswith("kept"))

    assert found == {
        "70 is beyond the limit of 60": True, "80 is beyond the limit of 60": False, "edge 90": True, "edge 91": False
    }  # fmt: skip
    assert {text for name, text in sent if name == "news"} == {"80 is beyond the limit of 60", "edge 91"}
    assert {text for name, text in sent if name == "all"} == set(found)


async def tell(fleet, session, alert):
    outcome = await fleet.ingest.submit(session, Inbound(type=messages.EVENTS, subject="d", payload=dumps(alert)))
    assert getattr(outcome, "code", None) is None, outcome


async def test_late_must_be_true_or_false(folder):
    (folder / "fleet.toml").write_text(TOML.format(late="3"))
    with pytest.raises(ConfigError, match="late must be true or false"):
        async with IoTFleetManager(folder, create=True):
            pass
