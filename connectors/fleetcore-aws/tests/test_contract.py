"""The contract of backends, on the real SDK against both counterparts, which keep to the printed policy."""

import json

import pytest
from fleetcore_aws.testing.control import Control

from fleetcore.interfaces.cloud import CloudUse, MirrorItem
from fleetcore.model.mirror import EntityKey, TwinBody
from fleetcore.testing.cloud_contract import CloudContract

QUEUE = "http://127.0.0.1/123456789012/commands"
TWIN = EntityKey("twin", "sensor-1")
NULLS = TwinBody(desired={"mode": None, "limits": {}, "steps": [1, None], "keep": {"a": [], "b": 0}})
DEEP = TwinBody(desired={"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}})
LARGE = TwinBody(reported={"text": "x" * 8192})


class OnAws(CloudContract):
    @pytest.fixture
    async def backend(self, opened, at):
        async with opened(at=at, pace=False, commands_queue=QUEUE, account="123456789012", queue_wait_s=1) as cloud:
            cloud.use = CloudUse(commands=True)
            at.faults.policy = json.loads(cloud.policy()["json"])
            yield cloud

    @pytest.fixture
    async def hub(self, at):
        control = Control(at, queue=QUEUE)
        yield control
        control.close()

    @pytest.fixture(params=[NULLS, DEEP, LARGE], ids=["nulls", "deep", "large"])
    def unfit(self, request):
        return MirrorItem(key=TWIN, body=request.param)


class TestOwnCounterpart(OnAws):
    @pytest.fixture
    async def at(self, front):
        return front


class TestMotoBehindTheStrictProxy(OnAws):
    @pytest.fixture
    async def at(self, moto_front):
        control = Control(moto_front)
        await control.call("sqs", "create_queue", QueueName="commands")
        control.close()
        return moto_front
