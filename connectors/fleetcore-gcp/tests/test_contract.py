"""The contract of backends, on the real SDK against the counterpart, which keeps to the printed policy."""

import json

import pytest

from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, TwinBody
from fleetcore.testing.cloud_contract import CloudContract

LARGE = TwinBody(reported={"text": "x" * 10_000_000})


class TestPubSub(CloudContract):
    @pytest.fixture
    async def hub(self, prepared):
        return prepared

    @pytest.fixture
    async def backend(self, opened, front, hub):
        async with opened(pace=False) as cloud:
            cloud.use = CloudUse(commands=True)
            front.faults.grant(json.loads(cloud.policy()["json"]))
            yield cloud

    @pytest.fixture
    def unfit(self):
        return MirrorItem(key=EntityKey("twin", "sensor-1"), body=LARGE)
