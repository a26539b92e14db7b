"""The steps of the data path stand alone here: a device, a session and a message without a fleet behind them."""

import logging

import pytest

from fleetcore.builtin.sqlite.config import SqliteConfig
from fleetcore.builtin.sqlite.storage import open_sqlite
from fleetcore.interfaces.provider import Context
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.message import Inbound
from fleetcore.pipeline.admit import Directory
from fleetcore.pipeline.message import Message
from fleetcore.pipeline.session import DeviceSession, DeviceState
from fleetcore.testing.clock import MovableClock
from fleetcore.wire.messages import TELEMETRY
from fleetcore.wire.strict_json import dumps

NOW = 1_769_860_800_000


class Devices(Directory):
    """Devices of one process; a leaf is known by its gateway."""

    def __init__(self):
        self.states = {}
        self.leaves = {}
        self.last = {}
        self.asked = []

    @property
    def last_seen(self):
        return self.last

    async def subject(self, session, subject):
        self.asked.append(subject)
        if self.leaves.get(subject) != session.identity:
            return None
        session.subjects[subject] = self.states[subject]
        return self.states[subject]

    def seen(self, state, now_ms):
        self.last[state.id] = now_ms

    def add(self, device, lifecycle=Lifecycle.ACTIVE, *, tokens=1000.0, gateway=None, metrics=()):
        state = DeviceState(Device(id=device, type="sensor", lifecycle=lifecycle), tokens, 0.0)
        state.metrics.update(dict(metrics))
        self.states[device] = state
        if gateway is not None:
            self.leaves[device] = gateway
        return state

    def session(self, device):
        return DeviceSession(self.states[device], "test", "peer")


@pytest.fixture
def devices():
    return Devices()


@pytest.fixture
def clock():
    return MovableClock(NOW)


@pytest.fixture
def outcomes():
    """What the senders were told, in order."""
    return []


@pytest.fixture
def delivery(devices, outcomes):
    """A message of a device in the queue; a device that is not known is made."""

    def make(body, device="d", *, subject=None, row=TELEMETRY, received=NOW, session=None, **more):
        if device not in devices.states:
            devices.add(device)
        payload = body if isinstance(body, bytes) else dumps(body)
        message = Inbound(type=row, subject=subject or device, payload=payload, **more)
        return (session or devices.session(device), message, outcomes.append, received)

    return make


@pytest.fixture
def message(delivery, devices):
    """A message with readings that was admitted."""

    def make(body, device="d", **more):
        made = delivery(body, device, **more)
        return Message(made, devices.states[more.get("subject") or device])

    return make


@pytest.fixture
async def storage(clock):
    context = Context(name="sqlite", fleet="test", clock=clock, logger=logging.getLogger("test"), secret=str)
    async with open_sqlite(SqliteConfig(path=None), context) as opened:
        yield opened
