"""The gateway's credentials at the core, as they are found in their folder."""

import pytest
from fleetcore_edge.uplink.credentials import CA, IDENTITY, Credentials

from fleetcore.errors import ConfigError
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.throwaway_ca import ThrowawayCa
from fleetcore.wire.identity import make_key


@pytest.fixture
def kept(tmp_path):
    given = ThrowawayCa().secrets("gw-1")
    credentials = Credentials(tmp_path, "gw-1", MovableClock())
    credentials.keep(given.certificate, given.key)
    credentials.keep_ca(given.ca)
    return credentials


def test_what_was_kept_is_given(kept):
    assert kept.secrets().certificate.startswith(b"-----BEGIN CERTIFICATE-----")


def another_key(text):
    return text[: text.index(b"-----BEGIN PRIVATE")] + make_key()[0]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (IDENTITY, lambda _text: b""),
        (IDENTITY, lambda text: text.replace(b"\nM", b"\nA", 1)),
        (IDENTITY, lambda text: text[text.index(b"-----BEGIN PRIVATE") :]),
        (IDENTITY, another_key),
        (CA, lambda _text: b"rubbish"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(kept, tmp_path, file, damage):
    (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))

    with pytest.raises(ConfigError, match=file) as caught:
        kept.secrets()
    assert caught.value.remedy


def test_a_damaged_key_of_an_enrolment_that_waits_is_made_anew(kept, tmp_path):
    (tmp_path / "enrolling.pem").write_bytes(b"rubbish")

    _, pem = kept.pending_key()

    assert (tmp_path / "enrolling.pem").read_bytes() == pem
