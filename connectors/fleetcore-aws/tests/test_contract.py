"""The contract of backends, on the real SDK against both counterparts."""

import pytest
from fleetcore_aws.testing.control import Control

from fleetcore.interfaces.cloud import MirrorItem
from fleetcore.model.mirror import EntityKey, TwinBody
from fleetcore.testing.cloud_contract import CloudContract

QUEUE = "http://127.0.0.1/123456789012/commands"
TWIN = EntityKey("twin", "sensor-1")
NULLS = TwinBody(desired={"mode": None, "limits": {}, "steps": [1, None], "keep": {"a": [], "b": 0}})
DEEP = TwinBody(desired={"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}})
LARGE = TwinBody(reported={"text": "x" * 8192})


class TestOwnCounterpart(CloudContract):
    @pytest.fixture
    async def backend(self, opened):
        async with opened(pace=False, commands_queue=QUEUE) as cloud:
            yield cloud

    @pytest.fixture
    def hub(self, front):
        control = Control(front, queue=QUEUE)
        yield control
        control.close()

    @pytest.fixture(params=[NULLS, DEEP, LARGE], ids=["nulls", "deep", "large"])
    def unfit(self, request):
        return MirrorItem(key=TWIN, body=request.param)
