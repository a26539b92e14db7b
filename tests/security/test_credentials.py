"""The simulated device's care for its own credentials: when it renews, and that nothing is lost where that fails."""

import hashlib

import pytest
from cryptography import x509

from fleetcore.errors import Unavailable
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.message import Reply
from fleetcore.testing.credentials import CredentialCare
from fleetcore.wire.times import format_time

from .conftest import DAY, csr


class Device:
    """Its secrets and what it said; the fleet's side is a real security manager."""

    def __init__(self, manager, clock):
        self.manager, self.reported, self.moved = manager, [], 0
        self.broken = self.refuses = False
        self.care = CredentialCare(
            clock, secrets=lambda: self.secrets, request=self._request, move=self._move, report=self._report
        )

    async def enrol(self, registry):
        await registry.register("th-1", "sensor")
        record = await self.manager.issue(csr("th-1"))
        ca = self.manager.authority.ca_pem()
        self.secrets = DeviceSecrets(device="th-1", certificate=record.pem.encode(), key=b"old", ca=ca)
        self.care.issued({"renew_after": format_time(record.renew_after)})
        return record

    async def _request(self, request):
        if self.refuses:
            return Reply(status=409, error={"code": "key_in_use"})
        return await self.manager.renew("th-1", request)

    async def _move(self, secrets):
        if self.broken:
            raise Unavailable("the handshake failed")
        self.moved += 1
        self.secrets = secrets

    async def _report(self, patch):
        self.reported.append(patch)


@pytest.fixture
async def device(manager, clock, registry):
    made = Device(manager, clock)
    made.record = await made.enrol(registry)
    yield made
    await made.care.close()


async def test_it_renews_with_a_new_key_once_its_time_has_come(device, clock):
    old = x509.load_pem_x509_certificate(device.secrets.certificate)
    clock.jump(device.record.renew_after - clock.now_ms() - 1)
    device.care.look()
    await device.care.wait_idle()
    assert device.moved == 0

    clock.jump(1)
    device.care.look()
    device.care.look()
    await device.care.wait_idle()

    new = x509.load_pem_x509_certificate(device.secrets.certificate)
    assert (device.moved, device.care.renewals) == (1, 1)
    assert new.public_key() != old.public_key()
    assert device.reported == [], "nobody asked it to"
    device.care.look()
    await device.care.wait_idle()
    assert device.moved == 1


async def test_it_keeps_the_old_certificate_until_the_new_one_has_connected(device, clock):
    before = device.secrets
    clock.jump(61 * DAY + 6 * DAY)
    device.broken = True
    device.care.look()
    await device.care.wait_idle()
    assert (device.secrets, device.care.failures) == (before, ["overloaded"])
    device.broken, device.refuses = False, True
    device.care.look()
    await device.care.wait_idle()
    assert (device.secrets, device.care.failures) == (before, ["overloaded", "key_in_use"])

    device.refuses = False
    device.care.look()
    await device.care.wait_idle()

    assert device.secrets.certificate != before.certificate


async def test_it_renews_once_for_each_value_that_asks(device):
    for value in ("op-1", "op-1", "op-2"):
        await device.care.obey({"renew": value})
        await device.care.wait_idle()

    assert device.moved == 2
    assert device.reported == [{"fleetcore": {"renew": "op-1"}}, {"fleetcore": {"renew": "op-2"}}]


async def test_what_came_to_nothing_is_done_at_the_next_occasion(device):
    device.broken = True
    await device.care.obey({"renew": "op-1"})
    await device.care.wait_idle()
    assert (device.care.obeyed, device.reported) == (None, [])

    device.broken = False
    await device.care.obey({"renew": "op-1"})
    await device.care.wait_idle()

    assert device.care.obeyed == "op-1"


async def test_a_bundle_is_taken_whole_or_not_at_all_and_confirmed_once(device):
    await device.manager.rotation.begin(actor="ann")
    ca = device.manager.authority.ca_pem().decode()
    digest = hashlib.sha256(ca.encode()).hexdigest()
    before = device.secrets
    for wrong in (None, {}, {"ca": ca}, {"ca": ca, "sha256": "0" * 64}, {"ca": 1, "sha256": digest}, "text"):
        assert device.care.with_bundle(before, wrong) is before

    trust = {"version": 2, "sha256": digest, "ca": ca}
    device.secrets = device.care.with_bundle(before, trust)
    for _ in range(2):
        await device.care.obey({"trust": trust})

    assert device.secrets.ca == ca.encode()
    assert device.reported == [{"fleetcore": {"trust": {"version": 2, "sha256": digest}}}]


async def test_a_device_without_a_certificate_has_none_to_renew(device, clock):
    device.secrets = DeviceSecrets(device="th-1", token="fc_dev_x")

    await device.care.obey({"renew": "op-1"})
    await device.care.wait_idle()

    assert device.moved == 0
