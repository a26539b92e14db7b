"""The key of a device token as a credential over DTLS: good as long as its token, and a certificate can be got by it.

Guards against a session that outlives its token, against refusals that nobody reads, and against a device with a key that
is told less than one with a token over HTTP.
"""

import asyncio
import time

import pytest
from fleetcore_coap.plugin import open_client
from fleetcore_http.plugin import open_client as open_http

from fleetcore.errors import FleetError, NotAuthenticated
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.model.device import Lifecycle
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key
from fleetcore.wire.shared_keys import SharedKey, shared_key


class Device:
    """th-1, known by a token."""

    def __init__(self, served, token):
        self.served, self.token = served, token

    def client(self, kind="coap"):
        secrets = DeviceSecrets(device="th-1", ca=self.served.ca.read_bytes(), token=self.token)
        return (open_client if kind == "coap" else open_http)(self.served.url(kind), secrets)

    async def says(self):
        """The code of a refusal, or None."""
        try:
            async with self.client() as client:
                reply = await client.send(messages.TELEMETRY, {"power": 1})
        except FleetError as error:
            return error.code
        return reply.error and reply.error["code"]


@pytest.fixture
def clock():
    return MovableClock(time.time_ns() // 1_000_000)


@pytest.fixture
async def served(serving, clock):
    async with serving(clock=clock) as running:
        await running.manager.register_device("th-1", "meter")
        yield running


@pytest.fixture
async def device(served):
    issued = await served.security.device_tokens.issue("th-1", ttl_s=3600.0)
    return Device(served, issued)


async def _gone(served):
    async with asyncio.timeout(PATIENCE_S):
        while served.fleet.protocols["coap"].adapter.connections:
            await asyncio.sleep(0.01)


async def test_a_token_that_expires_ends_the_association_within_a_minute_and_is_no_key_any_more(served, device, clock):
    async with device.client() as client:
        before = await client.send(messages.TELEMETRY, {"power": 1})
        clock.jump(3_600_000)
        await clock.advance(60.0)  # credentials that have ended are looked for once a minute
        await _gone(served)
        after = await device.says()

    assert (before.error, after) == (None, "not_authenticated")


async def test_a_token_that_is_revoked_ends_the_association_at_once_and_is_no_key_any_more(served, device):
    async with device.client() as client:
        before = await client.send(messages.TELEMETRY, {"power": 1})
        await served.security.revoke_token(shared_key("th-1", device.token).token, reason="lost")
        await _gone(served)
        after = await device.says()

    assert (before.error, after) == (None, "not_authenticated")


async def test_a_key_ends_with_its_own_token_while_another_token_of_the_device_is_good(served, device):
    other = Device(served, (await served.manager.issue_device_token("th-1")).token)
    await served.security.revoke_token(shared_key("th-1", device.token).token, reason="lost")

    assert (await device.says(), await other.says()) == ("not_authenticated", None)


async def test_a_suspended_device_is_told_so_and_let_in_again(served, device):
    codes = []
    for state in (Lifecycle.ACTIVE, Lifecycle.SUSPENDED, Lifecycle.ACTIVE):
        await served.fleet.devices.move("th-1", state, actor="olga", reason="odd")
        codes.append(await device.says())

    assert codes == [None, "device_suspended", None]


async def test_an_unknown_token_and_a_wrong_key_are_in_the_audit_log(served, device, monkeypatch, caplog):
    mine = shared_key("th-1", device.token)
    for wrong in (SharedKey("th-1:0123456789abcdef", mine.key), SharedKey(mine.token, b"k" * 32)):
        monkeypatch.setattr("fleetcore_coap.channel.shared_key", lambda *_of, wrong=wrong: wrong)
        with pytest.raises(NotAuthenticated):
            async with device.client():
                pass
    rows = await served.audited("access.denied")

    assert {(row.actor, row.object, row.reason) for row in rows} == {
        ("unknown", "session", "not_authenticated"),
        ("unknown", "session", "not_authenticated: not the key of the token"),
    }
    assert mine.token in caplog.text


async def test_a_device_gets_its_certificate_by_its_key_as_far_as_over_http_by_its_token(served, device):
    csr = make_csr("th-1", make_key()[1])
    enrollment = (await served.manager.create_enrollment_token("th-1")).token
    renewed = {}
    for kind in ("coap", "http"):
        async with device.client(kind) as client:
            reply = await client.request(messages.CERTIFICATE_RENEW, {"csr": csr.decode()})
            renewed[kind] = reply.status, reply.error and reply.error["code"]
    async with device.client() as client:
        as_stranger = await client.enroll(EnrollRequest(csr=make_csr("th-1", make_key()[1]), token=device.token))
        enrolled = await client.enroll(EnrollRequest(csr=csr, token=enrollment))
        still = await client.send(messages.TELEMETRY, {"power": 1})

    assert renewed["coap"] == renewed["http"]
    assert renewed["coap"] == (403, "not_authorised")
    assert as_stranger.error["code"] == "token_spent"
    assert enrolled.status == 201
    assert still.error is None
