"""The in-process protocol passes the contract, and broken protocols do not."""

import pytest

from fleetcore.builtin.local_protocol import LocalConfig, open_local, open_local_client
from fleetcore.interfaces import DeviceSecrets
from fleetcore.testing import context
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane


def make_client(endpoint, device):
    return open_local_client(endpoint, DeviceSecrets(device=device, token=RecordingPlane.token(device)))


class TestLocal(ProtocolContract):
    @pytest.fixture
    def open_adapter(self):
        return lambda plane: open_local(LocalConfig(), context("local"), plane, plane)

    @pytest.fixture
    def client(self):
        return make_client
