"""HTTP with mutual TLS, and with device tokens, keeps the promises of a protocol."""

import logging

import pytest
from fleetcore_http.config import HttpConfig
from fleetcore_http.plugin import open_client, open_http

from fleetcore.interfaces import Context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane


def context(tls):
    return Context(
        name="http",
        fleet="default",
        clock=MovableClock(),
        logger=logging.getLogger("fleetcore.http"),
        secret=lambda name: name,
        tls=tls,
    )


@pytest.fixture
async def tls(served):
    """The TLS provider that the other tests' server has."""
    return served.adapter._site.context.tls


class TestMutualTls(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, tls):
        return lambda plane: open_http(HttpConfig(listen="https://127.0.0.1:0"), context(tls), plane, plane)

    @pytest.fixture
    def client(self, authority):
        return lambda endpoint, device: open_client(endpoint, authority.secrets(device))


class TestTokens(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, tls):
        return lambda plane: open_http(HttpConfig(listen="https://127.0.0.1:0"), context(tls), plane, plane)

    @pytest.fixture
    def client(self, authority):
        def make(endpoint, device):
            return open_client(endpoint, authority.secrets(device, token=RecordingPlane.token(device)))

        return make
