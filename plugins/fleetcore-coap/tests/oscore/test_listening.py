"""Where OSCORE may be listened on, what it needs, and what is written down of keys that are refused."""

import subprocess
import sys

import pytest
from fleetcore_coap import config as config_module
from fleetcore_coap.codec import Method, Option
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.plugin import open_client, open_coap

from fleetcore.errors import ConfigError, NotAuthenticated, Refused, Unavailable
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.testing import context
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.wire import messages
from fleetcore.wire.shared_keys import SharedKey, shared_key

T = [(Option.URI_PATH, b"d"), (Option.URI_PATH, b"t"), (Option.CONTENT_FORMAT, b"\x32")]


def test_plain_coap_beyond_the_loopback_is_for_oscore_alone():
    assert CoapConfig(listen="coap://0.0.0.0:5683", oscore=True).listener().host == "0.0.0.0"
    with pytest.raises(ConfigError, match="without encryption"):
        CoapConfig(listen="coap://0.0.0.0:5683").listener()


@pytest.mark.parametrize("listen", ["coaps://0.0.0.0:5684", "coap+tcp://127.0.0.1:5683", "coaps+tcp://0.0.0.0:5684"])
async def test_oscore_on_another_transport_is_refused_with_the_reason(listen, plane, authority):
    with pytest.raises(ConfigError, match=r"oscore = true is for coap://"):
        async with open_coap(CoapConfig(listen=listen, oscore=True), context("coap", tls=authority), plane, plane):
            pass


async def test_without_the_library_the_error_says_what_to_install(plane, authority, monkeypatch):
    monkeypatch.setattr(config_module, "find_spec", lambda _name: None)
    config = CoapConfig(listen="coap://127.0.0.1:0", oscore=True)
    with pytest.raises(ConfigError) as refused:
        async with open_coap(config, context("coap", tls=authority), plane, plane):
            pass

    assert 'pip install "fleetcore-coap[oscore]"' in str(refused.value.remedy)
    with pytest.raises(ConfigError):
        open_client("coap://127.0.0.1:1", DeviceSecrets(device="dev1", token=plane.token("dev1")))


def test_nothing_of_it_is_imported_where_it_is_not_asked_for():
    code = "import sys, fleetcore_coap.server, fleetcore_coap.client; assert 'aiocoap.oscore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_fleet_has_one_listener_under_oscore(protected, plane, authority):
    config = CoapConfig(listen="coap://127.0.0.1:0", oscore=True)
    with pytest.raises(ConfigError, match="second listener"):
        async with open_coap(config, context("other", tls=authority), plane, plane):
            pass
    other = RecordingPlane()
    async with open_coap(config, context("other", tls=authority), other, other) as adapter:
        assert adapter.endpoints != protected.adapter.endpoints


async def test_keys_that_are_refused_are_written_down(protected, plane, hand):
    known = shared_key("dev1", plane.token("dev1"))
    for key in (SharedKey(known.token, b"0" * 32), SharedKey("nobody:0123456789abcdef", b"0" * 32)):
        device = hand(protected, key=key)
        await device.ask(device.made(Method.POST, T, b'{"t": 1}'))

    assert [(each.code, each.data["protocol"]) for each in plane.denials] == [("not_authenticated", "coap")] * 2


# -- the device's client ----------------------------------------------------------------------------------------------


async def test_a_client_with_a_wrong_token_is_told_so(protected, plane):
    wrong = f"fc_dev_dev1_{'A' * 43}"
    with pytest.raises(NotAuthenticated):
        async with open_client(protected.url, DeviceSecrets(device="dev1", token=wrong)):
            pass


async def test_numbers_of_a_client_go_on_where_another_one_of_the_token_was(protected, plane, with_oscore):
    from fleetcore_coap.oscore import channel

    secrets = DeviceSecrets(device="dev1", token=plane.token("dev1"))
    token = shared_key("dev1", plane.token("dev1")).token
    async with open_client(protected.url, secrets) as first, open_client(protected.url, secrets) as second:
        before = channel._used[token]
        for device in (first, second, first):
            assert (await device.request(messages.TIME)).error is None
        after = channel._used[token]

    assert after == before + 3


async def test_a_client_whose_clock_cannot_be_right_does_not_speak(plane, monkeypatch, with_oscore):
    monkeypatch.setattr("time.time_ns", lambda: 0)
    with pytest.raises(Refused, match="clock"):
        open_client("coap://127.0.0.1:1", DeviceSecrets(device="dev1", token=plane.token("dev1")))


async def test_a_client_that_nobody_answers_says_so(plane, monkeypatch, with_oscore):
    monkeypatch.setattr("fleetcore_coap.channel.ANSWER_S", 0.2)
    with pytest.raises(Unavailable):
        async with open_client("coap://127.0.0.1:9", DeviceSecrets(device="dev1", token=plane.token("dev1"))):
            pass
