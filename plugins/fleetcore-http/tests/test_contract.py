"""HTTP with mutual TLS, and with device tokens, keeps the promises of a protocol."""

import pytest
from fleetcore_http.config import HttpConfig
from fleetcore_http.plugin import open_client, open_http

from fleetcore.testing import context
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane


class TestMutualTls(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, authority):
        return lambda plane: open_http(
            HttpConfig(listen="https://127.0.0.1:0"), context("http", tls=authority, limits=plane.limits), plane, plane
        )

    @pytest.fixture
    def client(self, authority):
        return lambda endpoint, device: open_client(endpoint, authority.secrets(device))


class TestTokens(TestMutualTls):
    @pytest.fixture
    def client(self, authority):
        def make(endpoint, device):
            return open_client(endpoint, authority.secrets(device, token=RecordingPlane.token(device)))

        return make
