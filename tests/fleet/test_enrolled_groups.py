"""A token that puts the devices it lets in into groups."""

import pytest

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.interfaces.protocol import EnrollRequest
from fleetcore.model.device import Lifecycle
from fleetcore.wire.identity import make_csr, make_key


async def enroll(fleet, device, token, key=None):
    csr = make_csr(device, key or make_key()[1])
    return await fleet.security.enroll(EnrollRequest(csr=csr, token=token))


async def test_the_devices_of_a_token_are_in_its_groups_when_they_are_answered(fleet):
    await fleet.groups.create("lab")
    await fleet.groups.create("new")
    token = await fleet.security.enrollment_tokens.create(uses=2, groups=["lab", "new"])

    for device in ("a", "b"):
        assert (await enroll(fleet, device, token)).status == 201

    assert list(fleet.groups.members("lab")) == list(fleet.groups.members("new")) == ["a", "b"]


async def test_a_device_that_lost_its_answer_and_its_group_with_it_is_put_in_when_it_asks_again(fleet):
    await fleet.groups.create("lab")
    token = await fleet.security.enrollment_tokens.create(groups=["lab"])
    key = make_key()[1]
    await enroll(fleet, "a", token, key)
    await fleet.groups.take_out("lab", ["a"])  # as after a crash between the certificate and the group

    assert (await enroll(fleet, "a", token, key)).status == 201

    assert list(fleet.groups.members("lab")) == ["a"]


async def test_but_not_one_that_has_been_at_work_and_was_taken_out_since(fleet):
    await fleet.groups.create("lab")
    token = await fleet.security.enrollment_tokens.create(groups=["lab"])
    key = make_key()[1]
    await enroll(fleet, "a", token, key)
    await fleet.devices.move("a", Lifecycle.ACTIVE)
    await fleet.groups.take_out("lab", ["a"])

    await enroll(fleet, "a", token, key)

    assert list(fleet.groups.members("lab")) == []


async def test_a_token_whose_group_is_gone_lets_nobody_in_and_is_not_charged(fleet):
    await fleet.groups.create("lab")
    token = await fleet.security.enrollment_tokens.create(groups=["lab"])
    await fleet.groups.remove("lab")

    with pytest.raises(Conflict) as refused:
        await enroll(fleet, "a", token)

    assert "group" in refused.value.message
    assert await fleet.devices.find("a") is None
    assert (await fleet.security.enrollment_tokens.records.find())[0].left == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"groups": ["nowhere"]}, NotFound),
        ({"groups": ["asked"]}, Refused),
        ({"groups": ["lab"], "device": "a"}, Refused),
    ],
)
async def test_a_token_is_not_made_for_a_group_that_nobody_can_be_put_into(fleet, options, error):
    await fleet.groups.create("lab")
    await fleet.groups.create("asked", query="type = 'sensor'")

    with pytest.raises(error):
        await fleet.security.enrollment_tokens.create(**options)

    assert await fleet.security.enrollment_tokens.records.find() == []
