"""What a device asks costs the server as much as what it sends: calls, long polls and artifacts take tokens too."""

import pytest

from fleetcore.errors import Unavailable
from fleetcore.model.credential import LocalCredential
from fleetcore.model.message import Inbound
from fleetcore.wire import messages

ASK = Inbound(type=messages.TWIN_GET, subject="g1", payload=b"")


@pytest.fixture
async def session(fleet):
    await fleet.devices.register("g1", "box")
    session = await fleet.plane.authenticate(LocalCredential("g1"), protocol="test")
    session.state.tokens, session.state.refilled = 2.0, fleet.clock.monotonic_s()
    return session


async def test_a_device_that_asks_too_often_waits_until_its_bucket_has_filled(fleet, session, clock):
    statuses = [(await fleet.plane.call(session, ASK)).status for _ in range(3)]
    refused = await fleet.plane.call(session, ASK)
    await clock.advance(1)
    again = await fleet.plane.call(session, ASK)

    assert statuses == [200, 200, 429]
    assert refused.error["code"] == "rate_limited"
    assert (refused.error["unit"], refused.error["scope"]) == ("messages/s", "device")
    assert again.status == 200
    assert fleet.refusals.counts["test", "rate_limited"] == 2


async def test_long_polls_and_artifacts_are_of_the_same_bucket(fleet, session):
    session.state.tokens = 0.0

    with pytest.raises(Unavailable, match="too often"):
        await fleet.plane.wait(session, "g1", messages.COMMAND)
    with pytest.raises(Unavailable, match="too often"):
        async with await fleet.plane.open_artifact(session, "g1", "0" * 64):
            pass

    assert fleet.refusals.counts["test", "rate_limited"] == 2
