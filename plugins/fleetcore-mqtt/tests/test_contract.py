"""The endpoint keeps the promises of a protocol: in MQTT 5 with certificates, in 3.1.1 with device tokens."""

import pytest
from fleetcore_mqtt.client import MqttDeviceClient
from fleetcore_mqtt.config import MqttConfig
from fleetcore_mqtt.plugin import open_mqtt

from fleetcore.interfaces import DeviceSecrets
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane

#: MQTT 3.1.1 acknowledges without a reason and has no properties: a refusal follows on ``errors`` (wire.md §4).
GAPS_311 = dict.fromkeys(
    (
        "test_a_permanent_refusal_comes_back_with_its_code_and_the_next_message_passes",
        "test_a_foreign_subject_is_refused",
        "test_an_over_long_message_is_refused_with_limit_and_unit_and_the_next_passes",
        "test_the_message_id_arrives_beside_the_payload",
    ),
    "MQTT 3.1.1 carries neither a reason with the PUBACK nor an id beside the payload",
)


class TestVersion5WithCertificates(ProtocolContract):
    @pytest.fixture
    def open_adapter(self, context):
        return lambda plane: open_mqtt(MqttConfig(listen="mqtts://127.0.0.1:0"), context, plane, plane)

    @pytest.fixture
    def client(self, pki):
        return lambda endpoint, device: MqttDeviceClient(endpoint, pki.secrets(device))


class TestVersion311WithTokens(ProtocolContract):
    gaps = GAPS_311

    @pytest.fixture
    def open_adapter(self, context):
        return lambda plane: open_mqtt(MqttConfig(listen="mqtt://127.0.0.1:0"), context, plane, plane)

    @pytest.fixture
    def client(self):
        def make(endpoint, device):
            secrets = DeviceSecrets(device=device, token=RecordingPlane.token(device))
            return MqttDeviceClient(endpoint, secrets, version="3.1.1")

        return make
