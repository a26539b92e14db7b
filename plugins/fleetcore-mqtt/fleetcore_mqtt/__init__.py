"""MQTT for fleetcore: an endpoint for devices, a consumer behind a broker, and a device client."""

__version__ = "0.1.0"
