"""The contract of backends, on the real SDK against the counterpart, which keeps to the printed role."""

import json
from types import SimpleNamespace

import pytest
from fleetcore_azure.testing.control import Control

from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, TwinBody
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.cloud_contract import CloudContract, registration, twin

TWIN = EntityKey("twin", "sensor-1")
NULLS = TwinBody(desired={"mode": None, "limits": {}, "steps": [1, None], "keep": {"a": [], "b": 0}})
KEYS = TwinBody(desired={"a.b": 1, "c d": {"$x": 1, "y": 2}}, reported={"z": {"e.f": 1}})
DEEP = TwinBody(desired={"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"j": {"k": {"l": 1}}}}}}}}}}}})
LARGE = TwinBody(reported={"text": "x" * 4000, "more": "y" * 100})
REPORT = TwinBody(reported={f"m{at}": "x" * 4000 for at in range(9)})
HUGE = TwinBody(desired={f"m{at}": "x" * 4000 for at in range(8)})


class Trusted:
    """A credential of Entra ID: the counterpart takes its token."""

    def get_token(self, *scopes):
        assert scopes == ("https://iothubs.azure.net/.default",)
        return SimpleNamespace(token="trial", expires_on=4_000_000_000)


class OnAzure(CloudContract):
    by: str
    link: str | None = None

    @pytest.fixture
    async def backend(self, opened, front, monkeypatch):
        monkeypatch.setattr("fleetcore_azure.clients.default_credential", Trusted)
        settings = {"host": "counterpart.azure-devices.net", "device_connection_string": "env:DEVICES"}
        if self.link is not None:
            settings |= {"device_link": self.link, "link_endpoint": front.devices.endpoint}
        async with opened(
            pace=False, clock=SystemClock(), commands_by=self.by, commands_poll_s=0.02, **settings
        ) as cloud:
            cloud.use = CloudUse(commands=True)
            front.faults.role = json.loads(cloud.policy()["json"])
            yield cloud

    @pytest.fixture
    def hub(self, front):
        return Control(front, self.by)

    @pytest.fixture(params=[NULLS, KEYS, DEEP, LARGE, HUGE], ids=["nulls", "keys", "deep", "large", "huge"])
    def unfit(self, request):
        return MirrorItem(key=TWIN, body=request.param)


class TestWithCommandsInTwins(OnAzure):
    by = "desired"


class TestWithCommandsAsMessages(OnAzure):
    by = "c2d"


class TestWithReportsByConnections(OnAzure):
    by = "desired"
    link = "mqtt"

    @pytest.fixture(params=[NULLS, KEYS, DEEP, REPORT, HUGE], ids=["nulls", "keys", "deep", "report", "huge"])
    def unfit(self, request):
        return MirrorItem(key=TWIN, body=request.param)

    async def test_what_is_reported_is_in_the_reported_properties_and_not_in_tags(self, cloud, front):
        (made, done) = await cloud.apply([registration("sensor-1"), twin("sensor-1", interval=60)])

        there = front.hub.devices["sensor-1"]
        assert (made.state, done.state) == ("done", "done")
        assert there.reported == {"battery": 0.5}
        assert there.tags["fleetcore"]["twin"] == {"fleet": "default", "link": "mqtt"}
