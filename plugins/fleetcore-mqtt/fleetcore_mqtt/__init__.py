"""MQTT for fleetcore: an endpoint that devices connect to, a consumer behind a broker, and the device's side."""

__version__ = "0.1.0"
