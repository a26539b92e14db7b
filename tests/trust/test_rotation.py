"""A whole rotation under real devices: over each protocol they send all the while, and no message is lost or refused."""

import asyncio
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fleetcore_coap.plugin import open_client
from fleetcore_http.client import HttpDeviceClient
from fleetcore_mqtt.client import MqttDeviceClient

from fleetcore.errors import Conflict, FleetError
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.operation import OperationState
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.simulator import SimulatedDevice

WAYS = {"http": HttpDeviceClient, "mqtt": MqttDeviceClient, "coap": open_client, "coap-tcp": open_client}


class Sender:
    """A device that sends without a pause."""

    def __init__(self, simulated):
        self.simulated, self.sent, self._task = simulated, 0, None

    async def _send(self):
        while True:
            reply = await self.simulated.send({"values": {"n": float(self.sent)}}, 1)
            assert reply.error is None, reply.error
            self.sent += 1
            await asyncio.sleep(0.01)

    def start(self):
        self._task = asyncio.create_task(self._send(), name=f"send {self.simulated.device}")

    async def stop(self):
        # At a moment without a message under way: one that is cut off may be stored and not acknowledged.
        async with self.simulated._traffic.held():
            self._task.cancel()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def device(served, name, way, *, ca=None):
    """Registers, enrols over HTTPS and connects."""
    await served.manager.register_device(name, "sensor")
    http = served.url("http").replace("127.0.0.1", "localhost")
    simulated = SimulatedDevice(
        DeviceSecrets(device=name, ca=ca or served.security.authority.ca_pem()),
        WAYS[way],
        served.url(way).replace("127.0.0.1", "localhost"),
        SystemClock(),
    )
    token = (await served.manager.create_enrollment_token(name)).token
    await simulated.enroll(token, client=HttpDeviceClient, endpoint=http)
    await simulated.connect()
    return simulated


async def eventually(look, timeout_s=PATIENCE_S):
    async with asyncio.timeout(timeout_s):
        while not await look():
            await asyncio.sleep(0.05)


def issuer(simulated):
    return x509.load_pem_x509_certificate(simulated.secrets.certificate).issuer.rfc4514_string()


async def renewed(served, **whom):
    operation = await served.fleet.renewals.start(actor="ann", **whom)
    return await served.fleet.operations.run(operation.id)


@pytest.fixture
async def devices(served):
    made = [await device(served, f"{way}-{number}", way) for way in WAYS for number in range(2)]
    senders = [Sender(one) for one in made]
    for one in senders:
        one.start()
    yield made, senders
    for one in made:
        await one.disconnect()


async def test_devices_go_from_one_root_to_the_next_without_losing_a_message(served, devices):
    made, senders = devices
    rotation = served.security.rotation

    async def all_confirmed():
        standing = await rotation.status()
        return standing.confirmed == standing.devices == len(made)

    await rotation.begin(actor="ann")
    await eventually(all_confirmed)
    await rotation.issue(actor="ann")
    late = await device(served, "late", "http")
    with pytest.raises(Conflict, match=f"{len(made)} devices have no certificate"):
        await rotation.retire(threshold=0.5, actor="ann")
    # There and back: whatever a device has taken meanwhile is trusted on.
    await rotation.back(actor="ann")
    await rotation.issue(actor="ann")
    plan = await served.fleet.renewals.plan(outdated=True)
    ended = await renewed(served, outdated=True, plan=plan.plan)
    assert (plan.count, plan.waves, ended.state, ended.done) == (
        len(made), (1, 1, len(made) - 2), OperationState.SUCCEEDED, len(made),
    )  # fmt: skip
    await eventually(lambda: _confirmed(rotation, len(made) + 1))
    done = await rotation.retire(actor="ann")
    assert done.locked_out == ()
    for one in made:
        before = one.sent
        await eventually(lambda one=one, before=before: _sent(one, before + 5))
    await eventually(lambda: _trusting(served, [*made, late]))
    for sender in senders:
        await sender.stop()
    await late.disconnect()
    assert {issuer(one) for one in made} == {"CN=fleetcore issuing trust 2"}
    for sender in senders:
        one = sender.simulated
        assert (one.problems, one.credentials.renewals, one.credentials.failures) == ({}, 1, [])
        assert one.acknowledged == one.sent == sender.sent
        stored = await served.manager.query_telemetry(one.device, "n")
        assert stored.value.tolist() == [float(number) for number in range(sender.sent)]
        states = sorted(record.state for record in await served.security.inventory(one.device))
        assert states == ["active", "superseded"]
    told = [row.action for row in await served.fleet.audit.list(object="ca", limit=100)]
    assert told == ["ca.announced", "ca.issuing", "ca.taken_back", "ca.issuing", "ca.retired"]


async def _confirmed(rotation, count):
    return (await rotation.status()).confirmed == count


async def _sent(one, count):
    return one.sent >= count


async def _trusting(served, made):
    return all(one.secrets.ca == served.security.authority.ca_pem() for one in made)


@pytest.mark.peer("openssl")
async def test_s_client_of_either_trust_is_content_at_every_phase_that_its_root_is_in(served, program, tmp_path):
    """A foreign TLS client that trusts one root alone, against each listener as it stands open."""
    roots = {"a": served.security.authority.roots[0]}
    rotation = served.security.rotation

    async def believed(root):
        file = tmp_path / f"{root}.pem"
        file.write_bytes(roots[root].public_bytes(Encoding.PEM))
        codes = set()
        for kind in WAYS.keys() - {"coap"}:  # DTLS follows a second later; the devices above go through it
            at = f"127.0.0.1:{urlsplit(served.url(kind)).port}"
            words = ("openssl", "s_client", "-connect", at, "-servername", "localhost", "-verify_hostname", "localhost")
            # Nothing of the system's own store, and a refusal ends it.
            trust = ("-CAfile", file, "-no-CApath", "-no-CAstore", "-verify_return_error", "-x509_strict")
            code, out, _ = await program(*words, *trust)
            assert (code == 0) == (b"Verify return code: 0 (ok)" in out)
            codes.add(code == 0)
        (answer,) = codes
        return answer

    assert await believed("a")
    await rotation.begin(actor="ann")
    roots["b"] = served.security.authority.roots[-1]
    assert (await believed("a"), await believed("b")) == (True, False)
    await rotation.issue(actor="ann")
    assert (await believed("a"), await believed("b")) == (True, True)
    await rotation.back(actor="ann")
    assert (await believed("a"), await believed("b")) == (True, False)
    await rotation.issue(actor="ann")
    await rotation.retire(actor="ann")
    assert (await believed("a"), await believed("b")) == (False, True)


async def test_a_device_of_the_old_trust_comes_back_in_the_middle_and_follows(served):
    """It slept through the announcement, and knows only the old root when the new one signs already."""
    asleep = await device(served, "asleep", "mqtt")
    await asleep.disconnect()
    old = asleep.secrets.ca
    await served.security.rotation.begin(actor="ann")
    await served.security.rotation.issue(actor="ann")
    operation = await served.fleet.renewals.reissue("asleep", actor="ann")

    assert asleep.secrets.ca == old
    await asleep.connect()

    ended = await served.fleet.operations.run(operation.id)
    assert ended.state is OperationState.SUCCEEDED
    assert issuer(asleep) == "CN=fleetcore issuing trust 2"
    done = await served.security.rotation.retire(actor="ann")
    assert done.locked_out == ()
    assert (await asleep.send({"values": {"n": 1.0}}, 1)).error is None
    await asleep.disconnect()
    await asleep.connect()
    await asleep.disconnect()


async def test_a_device_that_is_locked_out_is_refused_at_its_next_message_and_at_the_door(served):
    left = await device(served, "left", "http")
    assert (await left.send({"values": {"n": 1.0}}, 1)).error is None
    await served.security.rotation.begin(actor="ann")
    await served.security.rotation.issue(actor="ann")
    await served.security.rotation.retire(force=True, actor="ann")

    code = "served"
    try:
        reply = await left.send({"values": {"n": 2.0}}, 1)
        code = (reply.error or {}).get("code")
    except FleetError as error:
        code = error.code
    await left.disconnect()

    assert code != "served"
    assert code is not None
    stored = await served.manager.query_telemetry("left", "n")
    assert stored.value.tolist() == [1.0]
    with pytest.raises(FleetError):
        await left.connect()
