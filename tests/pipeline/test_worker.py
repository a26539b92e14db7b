"""The worker: a call's own time-out is not taken for one that overran."""

import pytest

from fleetcore.errors import PluginError
from fleetcore.pipeline.worker import Worker
from fleetcore.testing.faults import Stuck


async def test_a_time_out_that_the_call_raises_is_passed_on_as_it_is():
    def work():
        raise TimeoutError("the sensor is silent")

    worker = Worker("w")
    with pytest.raises(TimeoutError, match="the sensor is silent"):
        await worker.call(work, 30.0)
    worker.close()


async def test_a_call_that_overruns_is_told_where_it_is():
    worker = Worker("w")
    with Stuck() as stuck, pytest.raises(PluginError, match=r"did not answer within 0\.05 s; it is at "):
        await worker.call(stuck, 0.05)
    worker.close()
