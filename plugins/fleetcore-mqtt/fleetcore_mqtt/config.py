"""What fleet.toml says about MQTT."""

from attrs import field, frozen


@frozen(kw_only=True)
class MqttConfig:
    """``[protocols.mqtt]``: exactly one of ``listen`` and ``url``.

    Attributes:
        listen: where fleetcore is the MQTT endpoint, ``mqtts://0.0.0.0:8883``.
        url: the broker it stands behind, ``mqtts://broker.example:8883``.
        in_flight: QoS 1 messages of one device that may wait for their commit (Receive Maximum).
        client_id: towards the broker; fixed, because the broker keeps what is unacknowledged under it.
        username, password: for the broker, where it does not take the service certificate; the password is a
            reference (``env:NAME``, ``file:PATH``).
        broker_unacked: messages of the broker that may wait for their commit; beyond that its socket is not read.
        reload: the words of a command that has the broker read its revocation list anew; it is run after a
            revocation, before the device's connection to the broker is ended.
    """

    listen: str | None = None
    url: str | None = None
    in_flight: int = 32
    client_id: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    broker_unacked: int = 4096
    reload: tuple[str, ...] = ()
