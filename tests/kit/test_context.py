"""The context of a plugin's tests is as complete as a server's, and its counts can be looked at."""

import gc
from datetime import UTC, datetime

import pytest

from fleetcore.errors import ConfigError
from fleetcore.interfaces import Context
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.throwaway_ca import ThrowawayCa


def test_it_is_complete_without_a_word():
    made = context()

    assert isinstance(made, Context)
    assert isinstance(made.clock, MovableClock)
    assert made.data is not None
    assert list(made.data.iterdir()) == []
    assert made.limits.message_bytes == 256 * 1024
    assert made.logger.name == "fleetcore.test"


def test_two_contexts_share_neither_folder_nor_counts():
    first, second = context(), context()
    first.count("a")

    assert first.data != second.data
    assert second.counted == {}


def test_what_is_counted_can_be_looked_at():
    made = context()
    for name in ("refused", "refused", "late"):
        made.count(name)

    assert made.counted == {"refused": 2, "late": 1}


def test_its_folder_goes_when_it_does():
    made = context()
    folder = made.data
    (folder / "file").write_text("x")

    del made
    gc.collect()

    assert not folder.exists()


def test_a_given_folder_stays(tmp_path):
    made = context(data=tmp_path)

    del made
    gc.collect()

    assert tmp_path.exists()


def test_in_memory_there_is_no_folder():
    assert context(in_memory=True).data is None


def test_a_secret_is_resolved_and_an_unknown_one_is_refused_by_name():
    made = context(secrets={"env:PASSWORD": "hunter2"})

    assert made.secret("env:PASSWORD") == "hunter2"
    with pytest.raises(ConfigError, match="env:OTHER"):
        made.secret("env:OTHER")


def test_the_throwaway_ca_speaks_tls_with_its_devices():
    import ssl

    ca = ThrowawayCa()
    server, client = ca.server(), ca.secrets("dev1").tls()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
    ]
    done = set()
    while len(done) < 2:
        for side in sides:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass

    assert sides[0].getpeercert()["subjectAltName"] == (("URI", "urn:fleetcore:device:default:dev1"),)


def test_the_throwaway_ca_revokes_by_name():
    from cryptography import x509

    ca = ThrowawayCa()

    listed = x509.load_pem_x509_crl(ca.revoke("dev2").read_bytes())

    serials = {name: x509.load_der_x509_certificate(ca.device(name).der).serial_number for name in ("dev1", "dev2")}
    assert [one.serial_number for one in listed] == [serials["dev2"]]
    assert listed.next_update_utc > datetime.now(UTC)
