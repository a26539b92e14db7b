"""Mistakes are found before a gateway's enrolment spends its token."""

import pytest
from fleetcore_edge.uplink import preflight

from fleetcore.errors import ConfigError, Conflict
from fleetcore.testing.signers import Signers
from fleetcore.testing.throwaway_ca import ThrowawayCa
from fleetcore.wire.strict_json import dumps

UPLINK = '[services.uplink]\nurl = "wss://localhost:8445"\ngateway = "gw-1"\n'


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, None),
        ({"fleet.toml": UPLINK}, None),
        ({"fleet.toml": UPLINK.replace("gw-1", "gw-2")}, "gw-2"),
        ({"fleet.toml": '[fleet]\nname = "plant"\n'}, "not a gateway"),
        ({"fleet.db": ""}, "without its fleet.toml"),
    ],
)
def test_a_folder_of_another_fleet_stays_as_it_is(tmp_path, files, problem):
    for name, content in files.items():
        (tmp_path / name).write_text(content)

    if problem is None:
        preflight.check_folder(tmp_path, "gw-1")
    else:
        with pytest.raises(Conflict, match=problem) as caught:
            preflight.check_folder(tmp_path, "gw-1")
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("url", "http"),
    [("mqtts://h:8883", None), ("ftp://h", "https://h:8443"), ("wss://h:8445", "mqtts://h:8883"), ("h", None)],
)
def test_endpoints_at_which_a_gateway_cannot_enrol_are_refused(url, http):
    with pytest.raises(ConfigError) as caught:
        preflight.check_endpoints(url, http)
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"two words"])
def test_a_file_without_a_token_is_named(tmp_path, content):
    (tmp_path / "token").write_bytes(content)

    with pytest.raises(ConfigError, match="token"):
        preflight.read_token(tmp_path / "token")


@pytest.mark.parametrize("read", [preflight.read_ca, preflight.read_trust])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_something_else_is_named_with_a_remedy(tmp_path, read, content):
    (tmp_path / "file").write_bytes(content)

    with pytest.raises(ConfigError, match="file") as caught:
        read(tmp_path / "file")
    assert caught.value.remedy


def test_what_is_right_is_read(tmp_path):
    trust, ca = dumps(Signers().trust()), ThrowawayCa().secrets("gw-1").ca
    (tmp_path / "token").write_bytes(b"abc-1\n")
    (tmp_path / "ca").write_bytes(ca)
    (tmp_path / "trust").write_bytes(trust)

    assert preflight.read_token(tmp_path / "token") == "abc-1"
    assert preflight.read_ca(tmp_path / "ca") == ca
    assert preflight.read_trust(tmp_path / "trust") == trust
    preflight.check_endpoints("mqtts://h:8883", "https://h:8443")
    preflight.check_endpoints("wss://h:8445", None)
