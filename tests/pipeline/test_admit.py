"""Admit: which message may come in."""

import pytest

from fleetcore.interfaces.provider import Limits
from fleetcore.model.device import Lifecycle
from fleetcore.model.message import Rejected
from fleetcore.pipeline.admit import Admit

LIMITS = Limits(message_bytes=20, rate_per_s=1.0, burst=2)


@pytest.fixture
def admit(devices, clock):
    return Admit(devices, clock, LIMITS).admit


async def test_a_message_of_an_active_device_comes_in_and_is_seen(admit, delivery, devices):
    assert await admit(delivery({"t": 1})) is devices.states["d"]
    assert devices.last == {"d": delivery({})[3]}


async def test_the_longest_message_comes_in_and_one_byte_more_is_refused_with_its_limit(admit, delivery):
    assert not isinstance(await admit(delivery(b" " * 20)), Rejected)

    refused = await admit(delivery(b" " * 21))

    assert (refused.code, refused.limit, refused.unit, refused.scope) == ("limit_exceeded", 20, "bytes", "message")


async def test_the_bucket_empties_and_fills_with_time(admit, delivery, devices, clock):
    devices.add("d", tokens=2)

    codes = [getattr(await admit(delivery({})), "code", "in") for _ in range(3)]
    await clock.advance(1.0)
    codes.append(getattr(await admit(delivery({})), "code", "in"))

    assert codes == ["in", "in", "rate_limited", "in"]


async def test_a_rate_below_one_a_second_is_told_as_it_is(devices, clock, delivery):
    devices.add("d", tokens=0)

    refused = await Admit(devices, clock, Limits(rate_per_s=0.1, burst=1)).admit(delivery({}))

    assert (refused.limit, refused.unit, refused.retry_after_s) == (1, "messages in 10 s", 10.0)


@pytest.mark.parametrize(
    ("lifecycle", "code"), [(Lifecycle.SUSPENDED, "device_suspended"), (Lifecycle.RETIRED, "device_retired")]
)
async def test_a_blocked_device_is_refused_before_its_bucket_is_touched(admit, delivery, devices, lifecycle, code):
    state = devices.add("d", lifecycle, tokens=2)

    assert (await admit(delivery({}))).code == code
    assert state.tokens == 2


async def test_a_session_that_lost_its_right_is_refused_by_the_reason(admit, delivery, devices):
    made = delivery({})
    made[0].end("device_revoked")

    assert (await admit(made)).code == "device_revoked"


async def test_a_gateway_speaks_for_its_leaf_and_for_no_other_device(admit, delivery, devices):
    devices.add("gw")
    devices.add("leaf", gateway="gw")
    devices.add("foreign")

    assert await admit(delivery({}, "gw", subject="leaf")) is devices.states["leaf"]
    assert (await admit(delivery({}, "gw", subject="foreign"))).code == "not_your_device"
    assert set(devices.last) == {"gw", "leaf"}


async def test_a_blocked_leaf_is_refused_though_its_gateway_may_speak(admit, delivery, devices):
    devices.add("gw")
    devices.add("leaf", Lifecycle.SUSPENDED, gateway="gw")

    assert (await admit(delivery({}, "gw", subject="leaf"))).code == "device_suspended"
