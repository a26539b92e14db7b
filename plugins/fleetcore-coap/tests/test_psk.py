"""Devices that prove the key of a device token in the handshake, beside those that show a certificate (RFC 7252 §9.1.3.1).

Guards against a peer that is taken for a device whose key it does not have, against a handshake that waits for what a
store has to say, and against ciphers that a certificate would be weaker by.
"""

import asyncio
import re
from types import SimpleNamespace

import pytest
from fleetcore_coap import psk
from fleetcore_coap.association import Association, prepare
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.contexts import key_client_context, key_server_context
from fleetcore_coap.keyed import KeyedAssociation, Keys
from fleetcore_coap.listening import Door
from fleetcore_coap.plugin import open_client, open_coap
from fleetcore_coap.records import whole_records
from OpenSSL import SSL

from fleetcore.errors import ConfigError, NotAuthenticated, Refused, StorageError
from fleetcore.interfaces.protocol import DeviceSecrets, EnrollRequest
from fleetcore.interfaces.waits import end_tasks
from fleetcore.listening.limits import ListenerLimits
from fleetcore.model.credential import CertificateCredential, KeyCredential
from fleetcore.testing import context
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.wire import messages
from fleetcore.wire.identity import make_csr, make_key
from fleetcore.wire.shared_keys import shared_key

KEY_PROGRAMS = [
    pytest.param(name, marks=pytest.mark.peer(name)) for name in ("coap-client-openssl", "coap-client-gnutls")
]
OPENSSL = pytest.mark.peer("openssl")
HERE = (0, ("127.0.0.1", 1))
CSR = make_csr("dev1", make_key()[1])
MINE, THEIRS = (shared_key(name, RecordingPlane.token(name)) for name in ("dev1", "dev2"))


@pytest.fixture
async def keyed(serve):
    return await serve(psk=True)


def by_key(authority, device):
    """What a device has that proves the key of its token."""
    return authority.secrets(device, token=RecordingPlane.token(device))


@pytest.fixture
def libcoap():
    """libcoap's client with an identity and a key: what it printed."""

    async def run(url, *options, identity=MINE.token, key=MINE.key, program="coap-client-openssl", within_s=PATIENCE_S):
        process = await asyncio.create_subprocess_exec(
            *(program, "-v", "7", "-B", str(int(within_s)), "-u", identity, "-k", key.decode(), *options, url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
        return re.findall(r"v:1 t:(?:ACK|CON|NON) c:([245]\.\d\d)", out.decode("utf-8", "replace"))

    return run


@pytest.fixture
def s_client():
    """``openssl s_client`` with an identity and a key: whether it shook hands, and what it printed."""

    async def run(served, *options, identity=MINE.token, key=MINE.key):
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{served.port}", "-psk", key.hex()),
            *("-psk_identity", identity, *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
        text = out.decode("utf-8", "replace")
        return text.endswith("DONE\n"), text

    return run


@pytest.mark.parametrize("program", KEY_PROGRAMS)
async def test_a_device_speaks_by_its_key(keyed, plane, libcoap, program):
    codes = await libcoap(f"{keyed.url}/d/t", "-m", "post", "-t", "50", "-e", '{"t": 1}', program=program)

    assert codes[-1:] == ["2.04"]
    assert [received.identity for received in plane.received] == ["dev1"]
    assert [shown.credential for shown in plane.authentications] == [KeyCredential(MINE.token)]


@pytest.mark.parametrize("program", KEY_PROGRAMS)
async def test_devices_with_certificates_and_strangers_are_served_on_the_same_port(keyed, plane, coap_client, program):
    known = await coap_client(f"{keyed.url}/d/t", "-m", "post", "-t", "50", "-e", '{"t": 1}', program=program)
    stranger = await coap_client(f"{keyed.url}/d/t", "-m", "post", "-e", '{"t": 1}', program=program, device=None)

    assert (known.codes[-1], stranger.codes[-1]) == ("2.04", "4.01")
    assert [type(shown.credential) for shown in plane.authentications] == [CertificateCredential]


@pytest.mark.parametrize("program", KEY_PROGRAMS)
async def test_a_wrong_key_gets_no_answer_and_is_written_down(keyed, plane, libcoap, program):
    asked = f"{keyed.url}/d/t", "-m", "post", "-e", '{"t": 1}'
    codes = await libcoap(*asked, key=THEIRS.key, program=program, within_s=5)

    assert codes == []
    assert plane.authentications == []
    assert {denial.data["token"] for denial in plane.denials} == {MINE.token}


@OPENSSL
@pytest.mark.parametrize(
    ("identity", "key"),
    [
        pytest.param(MINE.token, b"k" * 32, id="a wrong key"),
        pytest.param(THEIRS.token, MINE.key, id="the identity of another device"),
        pytest.param("dev1:0123456789abcdef", MINE.key, id="a token that there is not"),
        pytest.param("nobody:0123456789abcdef", MINE.key, id="a device that there is not"),
        pytest.param("dev1", MINE.key, id="a device alone"),
        pytest.param("x" * 200, MINE.key, id="200 bytes"),
        pytest.param("", MINE.key, id="an empty one"),
        pytest.param(b"dev1:\xff\xfe", MINE.key, id="no UTF-8"),
    ],
)
async def test_who_does_not_have_the_key_is_refused_at_once_in_the_same_way_whatever_is_wrong(
    keyed, plane, authority, s_client, identity, key
):
    shook, text = await s_client(keyed, identity=identity, key=key)
    async with open_client(keyed.url, authority.secrets("dev2")) as device:
        beside = await device.send(messages.TELEMETRY, {"t": 2})

    assert not shook
    assert "alert decrypt error" in text
    assert [(denial.who, denial.code) for denial in plane.denials] == [("unknown", "not_authenticated")]
    assert keyed.adapter._places.pending == {}
    assert [shown.credential for shown in plane.authentications if isinstance(shown.credential, KeyCredential)] == []
    assert beside.error is None


@OPENSSL
async def test_a_token_that_was_revoked_is_as_one_that_there_is_not(keyed, plane, s_client):
    before, _ = await s_client(keyed)
    plane.revoke("dev1")
    after, text = await s_client(keyed)

    assert (before, after) == (True, False)
    assert "alert decrypt error" in text


@OPENSSL
@pytest.mark.parametrize(
    "cipher",
    [
        "ECDHE-PSK-CHACHA20-POLY1305",
        "PSK-CHACHA20-POLY1305",
        "PSK-AES128-GCM-SHA256",
        "PSK-AES256-GCM-SHA384",
        "PSK-AES128-CCM",
        "PSK-AES128-CCM8",
        "PSK-AES256-CCM8",
    ],
)
async def test_every_cipher_that_is_meant_shakes_hands(keyed, s_client, cipher):
    shook, text = await s_client(keyed, "-cipher", f"{cipher}:@SECLEVEL=0")

    assert shook
    assert f"Cipher is {cipher}\n" in text


@OPENSSL
@pytest.mark.parametrize(
    "cipher", ["PSK-NULL-SHA256", "PSK-AES128-CBC-SHA", "PSK-AES128-CBC-SHA256", "RSA-PSK-AES128-GCM-SHA256"]
)
async def test_no_other_cipher_does(keyed, s_client, cipher):
    shook, text = await s_client(keyed, "-cipher", f"{cipher}:@SECLEVEL=0")

    assert not shook
    assert "alert handshake failure" in text


@OPENSSL
async def test_where_keys_are_not_asked_for_a_peer_with_nothing_else_is_refused(served, plane, s_client):
    shook, text = await s_client(served, "-cipher", "PSK")

    assert not shook
    assert "alert handshake failure" in text
    assert plane.authentications == []


@OPENSSL
async def test_short_tags_do_not_come_to_certificates_by_it(keyed, authority):
    own = authority.device("dev1")
    with_certificate = asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{keyed.port}", "-cert", own.certificate_path),
        *("-key", own.key_path, "-cipher", "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await (await with_certificate).communicate()

    assert b"alert handshake failure" in out


# -- the device's client ---------------------------------------------------------------------------------------------


async def test_the_client_proves_the_key_of_its_token(keyed, plane, authority):
    async with open_client(keyed.url, by_key(authority, "dev1")) as device:
        reply = await device.send(messages.TELEMETRY, {"t": 1})

    assert reply.error is None
    assert plane.received[0].identity == "dev1"


async def test_the_client_learns_at_once_that_its_token_is_refused(keyed, plane, authority):
    theirs = DeviceSecrets(device="dev1", token=RecordingPlane.token("dev2"))
    with pytest.raises(NotAuthenticated):
        async with open_client(keyed.url, theirs):
            pass

    assert plane.authentications == []


@pytest.mark.parametrize("scheme", ["coap+tcp", "coaps+tcp"])
async def test_the_client_has_no_use_for_a_token_on_tcp(authority, scheme):
    with pytest.raises(Refused, match="coaps://"):
        async with open_client(f"{scheme}://127.0.0.1:1", by_key(authority, "dev1")):
            pass


async def test_a_device_with_a_key_enrols_as_one_without_a_certificate_and_renews_as_with_a_token(
    keyed, plane, authority
):
    async with open_client(keyed.url, by_key(authority, "dev1")) as device:
        enrolled = await device.enroll(EnrollRequest(csr=CSR, token="fc_enroll_1"))
        await device.request(messages.CERTIFICATE_RENEW, {"csr": CSR.decode()})

    (request,) = plane.enrollments
    assert enrolled.status == 201
    assert (request.certificate, request.token) == (None, "fc_enroll_1")
    assert [(call.identity, call.message.type) for call in plane.calls] == [("dev1", messages.CERTIFICATE_RENEW)]


# -- the key is looked for -------------------------------------------------------------------------------------------


async def test_a_handshake_waits_for_a_store_that_is_slow_and_what_is_repeated_meanwhile_is_bounded(
    keyed, plane, authority, until
):
    plane.hold_authentication()
    sent = 0
    device = open_client(keyed.url, by_key(authority, "dev1"))
    opening = asyncio.ensure_future(device.__aenter__())
    await until(lambda: keyed.adapter._places.pending and keyed.adapter._state.tasks)
    (_, place), *_ = keyed.adapter._places.pending.values()
    timer = place.timer
    for _ in range(50):
        for datagram in tuple(place.association._held):
            device._channel._datagram(datagram)
            sent += len(datagram)
    await until(lambda: len(place.association._held) == 8)
    plane.let_in()
    await opening
    reply = await device.send(messages.TELEMETRY, {"t": 1})
    await device.__aexit__(None, None, None)

    assert reply.error is None
    assert timer is None
    assert sent > 0


async def test_a_handshake_whose_key_does_not_come_ends_at_its_deadline(serve, plane, authority, until):
    served = await serve(psk=True, listeners=ListenerLimits(handshake_s=5.0))
    plane.hold_authentication()
    opening = asyncio.ensure_future(open_client(served.url, by_key(authority, "dev1")).__aenter__())
    await until(lambda: served.adapter._places.pending and served.adapter._state.tasks)
    for _ in range(6):
        await served.clock.advance(1.1)
    await until(lambda: not served.adapter._places.pending and not served.adapter._state.tasks)
    await end_tasks(opening)
    plane.let_in()
    async with open_client(served.url, by_key(authority, "dev1")) as device:
        reply = await device.send(messages.TELEMETRY, {"t": 1})

    assert served.reached["coap", "handshake_s"] == 1
    assert reply.error is None


async def test_keys_that_are_looked_for_are_bounded_by_address_and_the_others_wait(serve, plane, authority, until):
    served = await serve(psk=True, listeners=ListenerLimits(per_address=3))
    plane.hold_authentication()

    async def speak():
        async with open_client(served.url, by_key(authority, "dev1")):
            pass

    speaking = [asyncio.ensure_future(speak()) for _ in range(6)]
    await until(lambda: len(served.adapter._hellos) == len(served.adapter._state.tasks) == 3)
    pending = len(served.adapter._places.pending)
    await end_tasks(*speaking)

    assert pending == 3


async def test_a_store_in_trouble_refuses_the_peer_and_lets_it_in_afterwards(
    keyed, plane, authority, monkeypatch, caplog
):
    async def trouble(_token_id, **_given):
        raise StorageError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(plane, "shared_key", trouble)
        with pytest.raises(NotAuthenticated):
            async with open_client(keyed.url, by_key(authority, "dev1")):
                pass
    async with open_client(keyed.url, by_key(authority, "dev1")) as device:
        reply = await device.send(messages.TELEMETRY, {"t": 1})

    assert reply.error is None
    assert "could not be looked up" in caplog.text
    caplog.clear()


# -- datagrams -------------------------------------------------------------------------------------------------------


class Pair:
    """A device with a key and the server's association, with the datagrams between them in hand."""

    def __init__(self, identity=MINE.token, key=MINE.key, key_of=None):
        self.keys, self.asked, self.sent, self.out = Keys(), [], [], []
        connection = SSL.Connection(key_client_context(identity, key), None)
        connection.set_connect_state()
        prepare(connection)
        self.client = Association(connection, self.out.append)
        self.client.begin()
        door = Door(key_server_context(key_of or self.keys.key_of))
        assert door.hello(HERE, self.out.pop(), self.sent.append) is None
        self.client.receive(self.sent.pop())
        taken = door.hello(HERE, self.out.pop(), self.sent.append)
        self.server = KeyedAssociation(taken, self.sent.append, self.keys, self.asked.append)
        self.server.begin()
        while self.sent:
            self.client.receive(self.sent.pop(0))
        #: ClientKeyExchange, ChangeCipherSpec, Finished.
        self.records = list(whole_records(b"".join(self.out)))
        self.out.clear()

    def finish(self):
        while self.sent:
            self.client.receive(self.sent.pop(0))
        return self.client.established


def fragments(record, at):
    """A handshake message in two records, divided at a byte of its body."""
    body, head = record[25:], record[13:19]
    found = []
    for number, (start, part) in enumerate(((0, body[:at]), (at, body[at:]))):
        message = head + start.to_bytes(3, "big") + len(part).to_bytes(3, "big") + part
        fragment = record[:11] + len(message).to_bytes(2, "big") + message
        found.append(numbered(fragment, 10 * number))
    return found


def numbered(record, more):
    """A record in clear with a higher number, as it has when it is repeated."""
    return record[:5] + (int.from_bytes(record[5:11], "big") + more).to_bytes(6, "big") + record[11:]


def test_the_three_records_of_a_proof_may_come_one_by_one():
    pair = Pair()
    for record in pair.records:
        pair.server.receive(record)
        if pair.asked and pair.server._asking:
            pair.server.know(MINE.key)

    assert pair.asked == [MINE.token.encode()]
    assert pair.finish()
    assert pair.server.proven == MINE.token.encode()


@pytest.mark.parametrize("order", [(2, 1, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (1, 2, 0)])
def test_records_that_overtake_each_other_end_no_handshake_of_a_good_device(order):
    pair = Pair()
    for number in order:
        pair.server.receive(pair.records[number])
        if pair.asked and pair.server._asking:
            pair.server.know(MINE.key)
    exchange, change, finished = pair.records
    for record in (numbered(exchange, 10), numbered(change, 10), finished):
        pair.server.receive(record)

    assert pair.server.ended is None
    assert pair.server.established


def test_an_exchange_that_is_split_behind_the_identity_is_read_and_one_within_it_is_refused():
    outcomes = []
    for at in (2 + len(MINE.token), 10):
        pair = Pair()
        for record in (*fragments(pair.records[0], at), *pair.records[1:]):
            pair.server.receive(record)
            if pair.server._asking:
                pair.server.know(MINE.key)
        outcomes.append((pair.server.established, pair.server.refused))

    assert outcomes == [(True, None), (False, b"")]


def test_a_key_is_told_for_the_identity_that_it_was_looked_for_and_for_no_other():
    pair = Pair()
    spliced = pair.records[0].replace(MINE.token.encode(), MINE.token[:-1].encode() + b"\0")
    pair.server.receive(spliced)
    pair.server.know(MINE.key)

    assert pair.asked == [MINE.token[:-1].encode() + b"\0"]
    assert pair.server.key_of(MINE.token[:-1].encode()) != MINE.key
    assert pair.server.key_of(MINE.token.encode()) != MINE.key


def test_an_error_in_the_search_for_a_key_ends_the_handshake_and_nothing_else(caplog):
    pair = Pair(key_of=lambda _identity: 1 / 0)
    pair.server.receive(b"".join(pair.records))
    pair.server.know(MINE.key)
    while pair.sent:
        pair.client.receive(pair.sent.pop(0))

    assert not pair.server.established
    assert pair.server.ended is not None
    assert pair.client.ended is not None
    assert "A key could not be passed" in caplog.text
    caplog.clear()


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["coaps+tcp://127.0.0.1:0", "coap://127.0.0.1:0", "coap+tcp://127.0.0.1:0"])
async def test_keys_without_dtls_are_refused_with_a_remedy(plane, authority, listen):
    with pytest.raises(ConfigError, match="DTLS") as caught:
        async with open_coap(CoapConfig(listen=listen, psk=True), context("coap", tls=authority), plane, plane):
            pass

    assert "coaps://" in caught.value.remedy


async def test_an_openssl_without_keys_is_refused_by_name(serve, monkeypatch):
    monkeypatch.setattr(psk, "_lib", SimpleNamespace(Cryptography_HAS_PSK=0))

    with pytest.raises(ConfigError, match="pre-shared keys"):
        await serve(psk=True)
