"""Real handshakes in memory: who gets in, who is turned away, and that nothing is resumed."""

import contextlib
import datetime as dt
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleetcore.fleet.security.authority import Authority, KeyPair
from fleetcore.testing.certificates import forge
from fleetcore.wire.tls import client_context, server_context

from .conftest import new_key


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, *, host: str = "localhost", session=None):
    """Both ends after a handshake and one byte each way, or the error of whichever failed."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host, session=session)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    steps = [far.do_handshake, near.do_handshake, lambda: far.write(b"x"), lambda: near.read(1)]
    waiting = [near.do_handshake, far.do_handshake, near.do_handshake, far.do_handshake]
    for step in [*waiting, *steps]:
        try:
            step()
        except ssl.SSLWantReadError:
            continue
    return near, far


def device_identity(authority: Authority, device: str = "th-1") -> dict[str, bytes]:
    key = new_key()
    pair = KeyPair(certificate=authority.issue_device(device, key.public_key()), key=key)
    return {"certificate": pair.certificate.public_bytes(Encoding.PEM) + authority.chain_pem(), "key": pair.key_pem()}


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    pair = authority.issue_server(["localhost", "127.0.0.1"])
    (tmp_path / "s.pem").write_bytes(pair.certificate.public_bytes(Encoding.PEM) + authority.chain_pem())
    (tmp_path / "s.key").write_bytes(pair.key_pem())
    return server_context(tmp_path / "s.pem", tmp_path / "s.key", authority.ca_pem())


def test_a_device_and_the_server_know_each_other(authority, server):
    client = client_context(ca=authority.ca_pem(), **device_identity(authority))

    _, far = handshake(server, client)

    assert far.getpeercert()["subjectAltName"] == (("URI", "urn:fleetcore:device:acme:th-1"),)


def test_a_device_that_shows_its_leaf_alone_gets_in(authority, server):
    identity = device_identity(authority)
    identity["certificate"] = identity["certificate"].split(b"-----END CERTIFICATE-----\n")[0] + (
        b"-----END CERTIFICATE-----\n"
    )

    _, far = handshake(server, client_context(ca=authority.ca_pem(), **identity))

    assert far.getpeercert(True) is not None


def test_a_client_without_a_certificate_gets_in_without_identity(authority, server):
    _, far = handshake(server, client_context(ca=authority.ca_pem()))

    assert far.getpeercert(True) is None


def test_a_certificate_of_a_foreign_ca_with_the_same_names_is_turned_away(authority, server, clock):
    foreign = Authority.create("acme", clock)

    with pytest.raises(ssl.SSLError):
        handshake(server, client_context(ca=authority.ca_pem(), **device_identity(foreign)))


def test_a_device_turns_a_foreign_server_away(server, clock):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(ca=Authority.create("acme", clock).ca_pem()))


def test_a_device_that_trusts_nobody_connects_to_nobody(server):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(ca=None))


def test_a_server_of_another_name_is_turned_away(authority, server):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client_context(ca=authority.ca_pem()), host="evil.example")


def test_no_session_is_resumed(authority, server):
    client = client_context(ca=authority.ca_pem(), **device_identity(authority))
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    first, _ = handshake(server, client)

    again, _ = handshake(server, client, session=first.session)

    assert (server.num_tickets, again.session_reused) == (0, False)


def test_in_tls_1_2_no_ticket_is_given_and_a_session_resumed_by_id_still_shows_the_certificate(authority, server):
    client = client_context(ca=authority.ca_pem(), **device_identity(authority))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    first, open_connection = handshake(server, client)

    _, again = handshake(server, client, session=first.session)

    assert not first.session.has_ticket
    assert again.getpeercert(True) == open_connection.getpeercert(True) is not None


def test_the_old_versions_of_tls_are_not_spoken(authority, server):
    client = client_context(ca=authority.ca_pem())
    client.set_ciphers("ALL:@SECLEVEL=0")

    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError):
        handshake(server, client)


def test_a_devices_key_leaves_no_file_behind(authority, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    client_context(ca=authority.ca_pem(), **device_identity(authority))

    assert list(tmp_path.iterdir()) == []


def test_an_encrypted_key_without_its_passphrase_fails_instead_of_asking(authority):
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

    key = new_key()
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    leaf = authority.issue_device("th-1", key.public_key()).public_bytes(Encoding.PEM)

    with pytest.raises(ssl.SSLError):
        client_context(ca=authority.ca_pem(), certificate=leaf, key=locked)


DAY = 86_400_000


def served(authority, clock):
    """The certificate that a server of this authority shows, and when it begins and ends, ms."""
    leaf = authority.issue_server(["localhost"]).certificate
    return (round(at.timestamp() * 1000) for at in (leaf.not_valid_before_utc, leaf.not_valid_after_utc))


@pytest.mark.parametrize("shift", [-DAY, DAY], ids=["before", "after"])
def test_a_clients_own_clock_judges_the_servers_dates(authority, server, clock, shift):
    begins, ends = served(authority, clock)
    wrong = begins + shift if shift < 0 else ends + shift
    right = client_context(ca=authority.ca_pem(), now_ms=lambda: (begins + ends) // 2)
    fault = "certificate is not yet valid" if shift < 0 else "certificate has expired"

    handshake(server, right)
    with pytest.raises(ssl.SSLCertVerificationError, match=fault):
        handshake(server, client_context(ca=authority.ca_pem(), now_ms=lambda: wrong))


def test_a_client_that_does_not_know_the_time_judges_chain_and_name_alone(authority, server, clock):
    unknown = {"now_ms": lambda: None}

    handshake(server, client_context(ca=authority.ca_pem(), **unknown))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client_context(ca=authority.ca_pem(), **unknown), host="evil.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(server, client_context(ca=Authority.create("acme", clock).ca_pem(), **unknown))


def test_an_issuing_ca_that_has_ended_is_found_where_the_client_judges(authority, tmp_path, clock):
    now, issuing = clock.now_ms(), authority.issuing
    ends = round(issuing.certificate.not_valid_after_utc.timestamp() * 1000)
    leaf = forge(
        issuing.certificate, issuing.key, fleet="acme", names=[x509.DNSName("localhost")],
        usages=[ExtendedKeyUsageOID.SERVER_AUTH], lasts=dt.timedelta(milliseconds=ends - now, days=3650),
    )  # fmt: skip
    (tmp_path / "s.pem").write_bytes(leaf.certificate.public_bytes(Encoding.PEM) + authority.chain_pem())
    (tmp_path / "s.key").write_bytes(KeyPair(certificate=leaf.certificate, key=leaf.key).key_pem())
    server = server_context(tmp_path / "s.pem", tmp_path / "s.key", authority.ca_pem())

    handshake(server, client_context(ca=authority.ca_pem(), now_ms=lambda: now))
    with pytest.raises(ssl.SSLCertVerificationError, match="has expired"):
        handshake(server, client_context(ca=authority.ca_pem(), now_ms=lambda: ends + DAY))


def test_a_client_with_a_clock_of_its_own_judges_over_a_blocking_socket_too(authority, server, clock):
    begins, ends = served(authority, clock)
    for now, fault in ((ends + DAY, "certificate has expired"), ((begins + ends) // 2, "")):
        near, far = socket.socketpair()
        serving = threading.Thread(target=serve_once, args=(server, far))
        serving.start()
        with contextlib.ExitStack() as stack:
            stack.callback(serving.join)
            stack.callback(near.close)
            client = client_context(ca=authority.ca_pem(), now_ms=lambda now=now: now)
            if fault:
                stack.enter_context(pytest.raises(ssl.SSLCertVerificationError, match=fault))
            client.wrap_socket(near, server_hostname="localhost").close()


def serve_once(server, far):
    with far, contextlib.suppress(OSError), server.wrap_socket(far, server_side=True) as connection:
        connection.recv(1)
