"""WebSocket keeps the promises of a protocol: in JSON and in CBOR, with certificates and with device tokens."""

import pytest
from fleetcore_websocket.client import WebSocketDeviceClient
from fleetcore_websocket.config import WebSocketConfig
from fleetcore_websocket.plugin import open_client, open_websocket

from fleetcore.testing import context
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane


class TestJsonWithCertificates(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, authority):
        config = WebSocketConfig(listen="wss://127.0.0.1:0")
        return lambda plane: open_websocket(
            config, context("websocket", tls=authority, limits=plane.limits), plane, plane
        )

    @pytest.fixture
    def client(self, authority):
        return lambda endpoint, device: open_client(endpoint, authority.secrets(device))


class TestCborWithCertificates(TestJsonWithCertificates):
    @pytest.fixture
    def client(self, authority):
        return lambda endpoint, device: WebSocketDeviceClient(
            endpoint, authority.secrets(device), form="fleetcore.v1.cbor"
        )


class TestTokens(TestJsonWithCertificates):
    @pytest.fixture
    def client(self, authority):
        def make(endpoint, device):
            return open_client(endpoint, authority.secrets(device, token=RecordingPlane.token(device)))

        return make


class TestTokensOfBrowsers(TestJsonWithCertificates):
    @pytest.fixture
    def client(self, authority):
        def make(endpoint, device):
            secrets = authority.secrets(device, token=RecordingPlane.token(device))
            return WebSocketDeviceClient(endpoint, secrets, browser=True)

        return make
