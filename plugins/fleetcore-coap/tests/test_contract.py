"""CoAP keeps the promises of a protocol: over DTLS with client certificates and keys, and under OSCORE."""

import pytest
from fleetcore_coap.client import CoapDeviceClient
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.plugin import open_client, open_coap

from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane

IDLE_S = 600.0


class TestDtls(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, authority):
        return lambda plane: open_coap(
            CoapConfig(listen="coaps://127.0.0.1:0"), context("coap", tls=authority, limits=plane.limits), plane, plane
        )

    @pytest.fixture
    def client(self, authority):
        return lambda endpoint, device: open_client(endpoint, authority.secrets(device))


class TestDtlsByKey(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, authority):
        config = CoapConfig(listen="coaps://127.0.0.1:0", psk=True)
        return lambda plane: open_coap(config, context("coap", tls=authority, limits=plane.limits), plane, plane)

    @pytest.fixture
    def client(self, authority):
        def make(endpoint, device):
            return open_client(endpoint, authority.secrets(device, token=RecordingPlane.token(device)))

        return make


@pytest.mark.usefixtures("with_oscore")
class TestOscore(ProtocolContract):
    @pytest.fixture
    def clock(self):
        return MovableClock()

    @pytest.fixture
    def open_adapter(self, authority, clock):
        def opened(plane):
            lent = context("coap", tls=authority, limits=plane.limits, clock=clock)
            return open_coap(CoapConfig(listen="coap://127.0.0.1:0", oscore=True, idle_s=IDLE_S), lent, plane, plane)

        return opened

    @pytest.fixture
    def client(self, clock):
        class Silent(CoapDeviceClient):
            """OSCORE has no word of goodbye: a context lasts until its device was silent for ``idle_s``."""

            async def __aexit__(self, kind, error, trace):
                await super().__aexit__(kind, error, trace)
                await clock.advance(IDLE_S + 2.0)

        return lambda endpoint, device: Silent(
            endpoint, DeviceSecrets(device=device, token=RecordingPlane.token(device))
        )
