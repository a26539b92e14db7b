"""Enrolment over a WebSocket against a real fleet: by token and by claim certificate, then renewal, and leaves of a gateway."""

import pytest
from fleetcore_websocket.plugin import open_client

from fleetcore.errors import NotAuthorised
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key


@pytest.fixture
def newcomer(served):
    """A device that has nothing yet but the CA and, where given, what it shows."""

    def make(name, **shown):
        secrets = DeviceSecrets(device=name, ca=served.security.authority.ca_pem(), **shown)
        return SimulatedDevice(secrets, open_client, served.url("websocket"), served.fleet.clock)

    return make


async def test_a_device_enrols_by_a_token_and_speaks_for_itself_and_the_token_is_spent(served, newcomer):
    token = await served.security.enrollment_tokens.create(uses=1)
    device, second = newcomer("th-1"), newcomer("th-2")

    await device.enroll(token)
    with pytest.raises(Exception, match="th-2 was not enrolled") as refused:
        await second.enroll(token)
    await device.connect()
    await device.send({"power": 21.5}, 1)
    await device.disconnect()

    assert refused.value.code == "token_spent"
    assert [one["value"] for one in await served.manager.list_device_latest_readings("th-1")] == [21.5]


async def test_both_steps_of_a_claim_and_nothing_before_the_second(served, newcomer):
    claim = await served.security.claims.create("spring", quota=5, models=["m-4"])
    shown = {"certificate": claim.certificate.encode(), "key": claim.key.encode()}
    key, private = make_key()
    device = newcomer("meter-1", **shown)
    async with open_client(device.endpoint, device.secrets) as client:
        begun = await client.enroll(EnrollRequest(csr=make_csr("meter-1", private)))
        early = DeviceSecrets(
            device="meter-1", ca=device.secrets.ca, certificate=begun.body["certificate"].encode(), key=key
        )
        with pytest.raises(NotAuthorised):
            async with open_client(device.endpoint, early):
                pass
        own = begun.body["ownership_token"]
        foreign = await client.enroll(EnrollRequest(ownership=own, parameters={"model": "m-5"}))
        done = await client.enroll(EnrollRequest(ownership=own, parameters={"model": "m-4"}))
        refused = await client.send(messages.TELEMETRY, {"power": 1})
    async with open_client(device.endpoint, early) as client:
        assert (await client.send(messages.TELEMETRY, {"power": 2})).error is None

    assert (begun.status, done.status, foreign.error["code"]) == (201, 201, "not_authorised")
    assert refused.error["code"] == "not_authorised"
    assert ("telemetry", "not_authorised") in {
        (row.object, row.reason) for row in await served.audited("access.denied")
    }


async def test_a_disabled_batch_is_cut_off_and_is_not_let_in_again(served, newcomer):
    claim = await served.security.claims.create("spring", quota=5)
    device = newcomer("meter-1", certificate=claim.certificate.encode(), key=claim.key.encode())
    async with open_client(device.endpoint, device.secrets) as client:
        await served.security.disable_claim("spring", reason="stolen")
        async for _ in client.downlinks():
            pass
    with pytest.raises(NotAuthorised):
        async with open_client(device.endpoint, device.secrets):
            pass


async def test_a_certificate_is_renewed_and_the_new_one_lets_in(served, newcomer):
    device = newcomer("th-1")
    await device.enroll(await served.security.enrollment_tokens.create())
    key, private = make_key()
    async with open_client(device.endpoint, device.secrets) as client:
        renewed = await client.request(messages.CERTIFICATE_RENEW, {"csr": make_csr("th-1", private).decode()})
        other = await client.request(messages.CERTIFICATE_RENEW, {"csr": make_csr("th-2", private).decode()})
        ca = await client.request(messages.CA_GET)
    chain = (renewed.body["certificate"] + renewed.body.get("chain", "")).encode()
    fresh = DeviceSecrets(device="th-1", ca=device.secrets.ca, certificate=chain, key=key)
    async with open_client(device.endpoint, fresh) as client:
        assert client.hello["device"] == "th-1"

    assert (renewed.status, other.error is not None) == (201, True)
    assert ca.body["ca"] == served.security.authority.ca_pem().decode()


async def test_a_gateway_with_the_grant_registers_a_leaf_and_speaks_for_it(served, newcomer):
    for name, grant in (("gw-1", True), ("gw-2", False)):
        await served.manager.register_gateway(name, may_register=grant)
    one, two = newcomer("gw-1"), newcomer("gw-2")
    for device in (one, two):
        await device.enroll(await served.security.enrollment_tokens.create(device=device.device))

    async with open_client(one.endpoint, one.secrets) as client:
        registered = await client.request(messages.LEAF_REGISTER, {"device": "valve-7", "type": "valve"})
        reply = await client.send(messages.TELEMETRY, {"flow": 3}, subject="valve-7")
    async with open_client(two.endpoint, two.secrets) as client:
        refused = await client.request(messages.LEAF_REGISTER, {"device": "valve-8"})
        taken = await client.request(messages.LEAF_REGISTER, {"device": "valve-7"})

    assert (registered.status, registered.body["gateway"], reply.error) == (201, "gw-1", None)
    assert (refused.error["code"], taken.error["code"]) == ("not_authorised", "already_exists")
    assert [one["value"] for one in await served.manager.list_device_latest_readings("valve-7")] == [3]
