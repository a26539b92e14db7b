"""Calls by TLS with the tokens of a service account's key, as against Google itself."""

import re

import grpc
import pytest
from fleetcore_gcp.clients import PublisherGrpcTransport
from fleetcore_gcp.testing.faults import Faults
from fleetcore_gcp.testing.server import serving
from fleetcore_gcp.testing.tokens import Endpoint

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.call_failed import SET_CLOCK
from fleetcore.testing.cloud_contract import registration
from fleetcore.testing.throwaway_ca import ThrowawayCa


@pytest.fixture(scope="module")
def ca():
    return ThrowawayCa()


@pytest.fixture
async def front(ca, monkeypatch):
    # gRPC reads the machine's own roots once a process.
    make, tls = PublisherGrpcTransport.create_channel, grpc.ssl_channel_credentials(ca.pem)
    trusting = staticmethod(lambda host, **given: make(host, **{**given, "ssl_credentials": tls}))
    monkeypatch.setattr(PublisherGrpcTransport, "create_channel", trusting)
    async with serving(ca=ca) as front:
        yield front


@pytest.fixture
def key(front, monkeypatch, tmp_path):
    file = tmp_path / "key.json"
    front.tokens.write_key(file)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


@pytest.fixture
async def cloud(opened, front, hub, key):
    async with opened(emulator=None, region="europe-west1", endpoint=front.endpoint) as cloud:
        yield cloud


async def states(cloud, *items):
    return [result.state for result in await cloud.apply(items)]


async def test_calls_go_with_a_token_that_is_had_once(cloud, front, hub):
    assert await states(cloud, registration("sensor-1"), registration("sensor-2")) == ["done", "done"]
    assert await states(cloud, registration("sensor-3")) == ["done"]

    assert front.tokens.given == 1
    assert len(hub.messages("registry")) == 3


@pytest.mark.parametrize("skew_s", [7200.0, -400.0])
async def test_another_time_at_google_is_told_as_that_and_not_as_wrong_credentials(cloud, hub, skew_s):
    await hub.have_time(skew_s)

    with pytest.raises(Unavailable) as failure:
        await cloud.apply([registration("sensor-1")])
    with pytest.raises(Unavailable) as of_commands:
        await anext(cloud.inbound(None))
    (finding,) = await cloud.check()

    way = "behind" if skew_s > 0 else "ahead of"
    told = [(str(each.value), each.value.remedy) for each in (failure, of_commands)]
    for said, remedy in (*told, (finding.detail, finding.remedy)):
        seconds = re.search(rf"the clock of this machine is (\d+) s {way} Google's", said)
        assert abs(int(seconds[1]) - abs(skew_s)) < 60, said
        assert remedy == SET_CLOCK
    assert (finding.state, finding.what) == ("problem", "clock")


@pytest.mark.parametrize("skew_s", [240.0, -240.0])
async def test_a_small_difference_of_clocks_is_none(cloud, hub, skew_s):
    await hub.have_time(skew_s)

    assert await states(cloud, registration("sensor-1")) == ["done"]


async def test_a_clock_that_was_set_right_is_enough(cloud, hub):
    await hub.have_time(7200.0)
    with pytest.raises(Unavailable):
        await cloud.apply([registration("sensor-1")])
    await hub.heal()

    assert await states(cloud, registration("sensor-1")) == ["done"]


async def test_a_key_that_is_not_known_is_rejected_and_not_taken_for_an_outage(cloud, front, key):
    another = Endpoint(Faults())
    another.url = front.tokens.url
    another.write_key(key)

    with pytest.raises(CredentialsRejected) as refused:
        await cloud.apply([registration("sensor-1")])

    assert "Invalid JWT Signature" in str(refused.value)


async def test_an_endpoint_of_tokens_that_does_not_answer_is_an_outage(cloud, hub):
    await hub.go_down()

    with pytest.raises(Unavailable):
        await cloud.apply([registration("sensor-1")])
    await hub.heal()

    assert await states(cloud, registration("sensor-1")) == ["done"]
