"""The MQTT section of fleet.toml."""

from attrs import field, frozen


@frozen(kw_only=True)
class MqttConfig:
    """``[protocols.mqtt]``: exactly one of ``listen`` and ``url``.

    Attributes:
        listen: the address of fleetcore's own MQTT endpoint, ``mqtts://0.0.0.0:8883``.
        url: the broker that it connects to instead, ``mqtts://broker.example:8883``.
        in_flight: QoS 1 messages of one device that may wait for their commit (Receive Maximum).
        client_id: for the broker; fixed, because the broker keeps unacknowledged messages under it.
        username, password: for a broker that does not accept the service certificate; the password is a reference
            (``env:NAME``, ``file:PATH``).
        broker_unacked: messages of the broker that may wait for their commit; beyond that nothing is read from it.
        reload: the words of a command that makes the broker read its revocation list again; it runs after a revocation,
            before the device's connection to the broker is ended.
    """

    listen: str | None = None
    url: str | None = None
    in_flight: int = 32
    client_id: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    broker_unacked: int = 4096
    reload: tuple[str, ...] = ()
