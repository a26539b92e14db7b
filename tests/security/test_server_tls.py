"""The listeners' certificate is renewed under them."""

import gc
import ssl

import pytest
from cryptography import x509

from fleetcore.errors import ConfigError
from fleetcore.fleet.security import FleetTls, PkiFolder
from fleetcore.wire.tls import client_context

from .conftest import DAY
from .test_tls import handshake


@pytest.fixture
def folder(tmp_path, clock) -> PkiFolder:
    return PkiFolder.create(tmp_path / "pki", "acme", ["localhost", "127.0.0.1", "::1"], clock)


@pytest.fixture
def tls(folder, clock) -> FleetTls:
    return FleetTls(folder, clock)


def shown(tls: FleetTls, context: ssl.SSLContext) -> x509.Certificate:
    near, _ = handshake(context, client_context(ca=tls.ca_bundle()))
    return x509.load_der_x509_certificate(near.getpeercert(True))


def test_nothing_is_renewed_before_its_time(tls, clock):
    clock.jump(59 * DAY)

    assert not tls.renew_if_due()


def test_an_open_listener_shows_the_renewed_certificate(tls, clock):
    context = tls.server()
    old = shown(tls, context)
    clock.jump(60 * DAY)

    # Backdated five minutes like every other, but sixty days ahead of the machine's clock, which TLS goes by: the
    # handshake itself would refuse it, so the client looks without judging.
    assert tls.renew_if_due()

    client = client_context(ca=tls.ca_bundle())
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    near, _ = handshake(context, client)
    new = x509.load_der_x509_certificate(near.getpeercert(True))
    assert new.serial_number != old.serial_number
    san = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(san) == old.extensions.get_extension_for_class(san)


def test_it_is_renewed_once(tls, clock):
    clock.jump(60 * DAY)

    assert [tls.renew_if_due() for _ in range(3)] == [True, False, False]


def test_a_closed_listener_is_forgotten(tls):
    context = tls.server()
    del context
    gc.collect()

    assert len(tls._contexts) == 0


def test_a_listener_that_could_not_take_the_new_certificate_takes_it_the_next_time(tls, clock, monkeypatch):
    context = tls.server()
    old = shown(tls, context)
    clock.jump(60 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr(
            ssl.SSLContext, "load_cert_chain", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many files"))
        )
        with pytest.raises(OSError, match="Too many files"):
            tls.renew_if_due()
    assert shown(tls, context) == old

    tls.renew_if_due()

    client = client_context(ca=tls.ca_bundle())
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    near, _ = handshake(context, client)
    assert x509.load_der_x509_certificate(near.getpeercert(True)) != old


def test_a_missing_key_is_named(tls, folder):
    folder.server[1].unlink()

    with pytest.raises(ConfigError, match=r"server\.key"):
        tls.server()


def test_the_consumer_of_a_broker_finds_its_files(tls):
    certificate, key, ca = tls.service_client()

    name = x509.load_pem_x509_certificate(certificate.read_bytes()).subject.rfc4514_string()
    assert (name, key.exists(), ca.read_bytes()) == ("CN=fleetcore:consumer", True, tls.ca_bundle())


def test_the_certificate_towards_brokers_is_renewed_with_its_key(tls, folder, clock):
    old, key = folder.service_pair().certificate, folder.service[1].read_bytes()
    lifetime = (old.not_valid_after_utc - old.not_valid_before_utc).days
    clock.jump(lifetime // 2 * DAY)
    assert not tls.renew_service_if_due()
    clock.jump(lifetime // 4 * DAY)

    assert [tls.renew_service_if_due() for _ in range(2)] == [True, False]

    new = folder.service_pair().certificate
    assert new.not_valid_after_utc > old.not_valid_after_utc
    assert (new.subject, folder.service[1].read_bytes()) == (old.subject, key)
