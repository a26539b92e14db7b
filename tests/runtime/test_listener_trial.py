"""Doctor's trial of each listener: as a device would find it, reached or not."""

import asyncio
import socket

import pytest

from fleetcore.cli.root import run
from fleetcore.cli.serve import running
from fleetcore.frontends.control_client import ControlClient
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.message import Reply
from fleetcore.runtime import listener_trial
from fleetcore.runtime.listener_trial import GUEST, try_listener
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.throwaway_ca import ThrowawayCa

#: Protocol and scheme.
LISTENERS = [("http", "https"), ("mqtt", "mqtts"), ("websocket", "wss"), ("coap", "coaps")]


@pytest.fixture
async def folder(tmp_path):
    """A data folder with no protocols yet; give them to it with ``listen``."""
    folder = tmp_path / "fleet"
    assert await asyncio.to_thread(run, ["init", str(folder)]) == 0
    settings = folder / "fleet.toml"
    head = settings.read_text().split("\n[protocols")[0]

    def listen(host):
        sections = [f'[protocols.{name}]\nlisten = "{scheme}://{host}:0"\n' for name, scheme in LISTENERS]
        settings.write_text(head + "\n" + "\n".join(sections))

    return folder, listen


async def tried(folder):
    return (await ControlClient(folder).run("check_listeners", {}))["findings"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]"])
async def test_each_listener_is_tried_and_lets_a_device_through_to_a_refusal(folder, host):
    data, listen = folder
    listen(host)
    async with running(data) as endpoints:
        found = await tried(data)
        status = await ControlClient(data).run("get_status", {})

    expected = {f"listener {url}" for urls in endpoints.values() for url in urls}
    assert {finding["what"] for finding in found} == expected
    assert len(expected) >= len(LISTENERS)
    assert {finding["state"] for finding in found} == {"ok"}, found
    assert status["messages"]["rejected"].keys() <= {"certificate_invalid"}


async def test_a_certificate_without_the_listeners_name_is_a_problem(folder):
    data, listen = folder
    listen("127.0.0.2")
    async with running(data):
        found = await tried(data)

    assert len(found) >= len(LISTENERS)
    assert {finding["state"] for finding in found} == {"problem"}, found
    assert all("cannot reach it" in finding["detail"] for finding in found)


class Tls:
    """What a trial needs of a fleet's certificates."""

    def __init__(self):
        self._ca = ThrowawayCa()

    def takeover_certificate(self, device):
        secrets = self._ca.secrets(device)
        return secrets.certificate, secrets.key

    def ca_bundle(self):
        return self._ca.secrets("any").ca


@pytest.mark.parametrize(("name", "scheme"), LISTENERS)
async def test_a_port_on_which_nothing_answers_is_a_problem(monkeypatch, name, scheme):
    monkeypatch.setattr(listener_trial, "TRIAL_S", 0.5)
    provider = PluginHost().find("protocols", name)
    kind = socket.SOCK_DGRAM if name == "coap" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as silent:
        silent.bind(("127.0.0.1", 0))
        if name != "coap":
            silent.listen()
        endpoint = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        finding = await try_listener(provider.client, endpoint, Tls())

    assert (finding.state, finding.what) == ("problem", f"listener {endpoint}")
    assert "no answer within 0.5 s" in finding.detail or "does not answer" in finding.detail


async def test_a_listener_that_lets_a_stranger_in_is_a_problem():
    class Open:
        def __init__(self, endpoint, secrets):
            assert isinstance(secrets, DeviceSecrets)
            assert secrets.device == GUEST

        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            pass

        async def request(self, kind, body=None, *, subject=None):
            return Reply(status=200, body={})

    finding = await try_listener(Open, "http://127.0.0.1:1", Tls())

    assert finding.state == "problem"
    assert "accepts" in finding.detail
