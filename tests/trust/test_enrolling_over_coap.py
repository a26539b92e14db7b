"""A device comes into the fleet over CoAP alone, on UDP and on TCP: by a token, by a claim certificate, by an operator's word; and renews."""

import asyncio
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fleetcore_coap.plugin import open_client

from fleetcore.errors import NotAuthenticated, NotAuthorised
from fleetcore.interfaces import DeviceSecrets, EnrollRequest
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key

pytestmark = [pytest.mark.peer("coap-client-openssl")]


@pytest.fixture(params=["coap", "coap-tcp"])
def factory(tmp_path, request):
    return _Factory(tmp_path, request.param)


class _Factory:
    """Where a device gets its key; it keeps files for libcoap's client."""

    def __init__(self, folder, listener):
        self.folder, self.listener = folder, listener

    def device(self, name):
        pem, key = make_key()
        return Device(self.folder, self.listener, name, pem, make_csr(name, key))


class Device:
    """A device: libcoap's client, a key, and after it has enrolled a certificate."""

    def __init__(self, folder, listener, name, key, csr):
        self.folder, self.listener, self.name, self.key, self.csr = folder, listener, name, key, csr
        self.certificate = None

    def secrets(self, served):
        return DeviceSecrets(device=self.name, certificate=self.certificate, key=self.key, ca=served.ca.read_bytes())

    async def ask(self, served, path, body, form, *, shown=None):
        """A POST by libcoap's client, showing a certificate and key; the code and the body of the answer."""
        sent, got, credential = self.folder / "sent", self.folder / "got", []
        sent.write_bytes(body)
        got.unlink(missing_ok=True)
        if shown is not None:
            for flag, name, pem in (("-c", "shown.pem", shown[0]), ("-j", "shown.key", shown[1])):
                (self.folder / name).write_bytes(pem)
                credential += [flag, str(self.folder / name)]
        url = served.url(self.listener).replace("127.0.0.1", "localhost")
        process = await asyncio.create_subprocess_exec(
            *("coap-client-openssl", "-v", "7", "-B", str(int(PATIENCE_S)), "-R", str(served.ca), *credential),
            *("-m", "post"),
            *("-t", str(form), "-f", str(sent), "-o", str(got), f"{url}/device/v1/{path}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
        codes = [code for code in re.findall(rb"v:1 t:(?:ACK|CON|NON) c:(\d\.\d\d)", out) if code[:1] in b"245"]
        max_age = re.search(rb"Max-Age:(\d+)", out)
        return codes[-1].decode(), got.read_bytes() if got.exists() else b"", max_age and int(max_age[1])

    def keep(self, body):
        members = json.loads(body)
        self.certificate = (members["certificate"] + members.get("chain", "")).encode()
        return members

    @property
    def der(self):
        return x509.load_pem_x509_csr(self.csr).public_bytes(Encoding.DER)


async def _speaks(served, device):
    async with open_client(served.url(device.listener), device.secrets(served)) as client:
        return (await client.send(messages.TELEMETRY, {"power": 1})).error


async def test_a_device_enrols_by_a_token_and_then_speaks_for_itself(served, factory):
    await served.manager.register_device("th-1", "meter")
    token = (await served.manager.create_enrollment_token("th-1")).token
    device = factory.device("th-1")
    body = json.dumps({"csr": device.csr.decode(), "token": token}).encode()
    code, answer, _ = await device.ask(served, "enroll", body, 50)
    spent, _, _ = await factory.device("th-1").ask(
        served, "enroll", json.dumps({"csr": factory.device("th-1").csr.decode(), "token": token}).encode(), 50
    )

    assert code == "2.01"
    assert device.keep(answer)["device"] == "th-1"
    assert spent[0] == "4"
    assert await _speaks(served, device) is None


async def test_a_claim_certificate_enrols_by_pkcs10_and_does_nothing_else(served, factory):
    claim = await served.security.claims.create("spring", quota=2, device_type="meter")
    shown = (claim.certificate.encode(), claim.key.encode())
    device = factory.device("meter-1")
    begun, answer, _ = await device.ask(served, "enroll", device.der, 286, shown=shown)
    ownership = json.loads(answer)["ownership_token"]
    second = json.dumps({"ownership_token": ownership, "parameters": {"serial": "7"}}).encode()
    done, answer, _ = await device.ask(served, "enroll", second, 50, shown=shown)
    device.keep(answer)
    refused, _, _ = await device.ask(served, "telemetry", b'{"power": 666}', 50, shown=shown)

    assert (begun, done) == ("2.01", "2.01")
    assert refused in {"4.01", "4.03"}
    assert await _speaks(served, device) is None
    assert [one["value"] for one in await served.manager.list_device_latest_readings("meter-1")] == [1]


async def test_a_claim_beyond_its_quota_is_refused(served, factory):
    claim = await served.security.claims.create("spring", quota=1, device_type="meter")
    shown = (claim.certificate.encode(), claim.key.encode())
    codes = []
    for name in ("meter-1", "meter-2"):
        device = factory.device(name)
        body = json.dumps({"csr": device.csr.decode(), "parameters": {}}).encode()
        codes.append((await device.ask(served, "enroll", body, 50, shown=shown))[0])

    assert codes == ["2.01", "4.29"]


async def test_a_device_that_an_operator_has_to_let_in_is_told_to_ask_again(served, factory):
    await served.manager.register_device("th-1", "meter")
    first, other = factory.device("th-1"), factory.device("th-1")
    token = (await served.manager.create_enrollment_token("th-1")).token
    await first.ask(served, "enroll", json.dumps({"csr": first.csr.decode(), "token": token}).encode(), 50)
    code, _, max_age = await other.ask(served, "enroll", other.der, 286)

    assert code == "5.03"
    assert max_age >= 1


async def test_a_device_renews_reads_the_bundle_and_its_old_certificate_ends_once_the_new_one_has_connected(
    served, factory
):
    await served.manager.register_device("th-1", "meter")
    token = (await served.manager.create_enrollment_token("th-1")).token
    device = factory.device("th-1")
    async with open_client(served.url(device.listener), device.secrets(served)) as stranger:
        reply = await stranger.enroll(EnrollRequest(csr=device.csr, token=token))
    device.certificate = (reply.body["certificate"] + reply.body.get("chain", "")).encode()
    old = device.secrets(served)
    async with open_client(served.url(device.listener), old) as client:
        key, made = make_key()
        renewed = await client.request(messages.CERTIFICATE_RENEW, {"csr": make_csr("th-1", made).decode()})
        bundle = await client.request(messages.CA_GET)
    device.key = key
    device.certificate = (renewed.body["certificate"] + renewed.body.get("chain", "")).encode()

    assert (reply.status, renewed.status) == (201, 201)
    assert bundle.body["ca"] == served.ca.read_text()
    assert await _speaks(served, device) is None
    with pytest.raises((NotAuthenticated, NotAuthorised)):
        async with open_client(served.url(device.listener), old):
            pass


async def test_a_gateway_registers_its_leaf_and_no_device_that_is_anothers(served, factory):
    await served.manager.register_gateway("gw", may_register=True)
    await served.manager.register_device("th-9", "meter")
    token = (await served.manager.create_enrollment_token("gw")).token
    device = factory.device("gw")
    async with open_client(served.url(device.listener), device.secrets(served)) as stranger:
        reply = await stranger.enroll(EnrollRequest(csr=device.csr, token=token))
    device.certificate = (reply.body["certificate"] + reply.body.get("chain", "")).encode()
    async with open_client(served.url(device.listener), device.secrets(served)) as gateway:
        made = await gateway.request(messages.LEAF_REGISTER, {"device": "valve-7", "type": "valve"})
        foreign = await gateway.request(messages.LEAF_REGISTER, {"device": "th-9", "type": "meter"})
        sent = await gateway.send(messages.TELEMETRY, {"open": 1}, subject="valve-7")

    assert (made.status, made.error, sent.error) == (201, None, None), made
    assert foreign.error is not None
