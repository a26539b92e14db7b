"""Azure IoT Hub as a mirror of a fleet: device identities, twins with tags, and readings as messages.

The engine decides what is sent and handles the answers; this package translates between the model's bodies and the
calls of azure-iot-hub. Each facet has a module; every call of the SDK goes through :mod:`fleetcore_azure.clients`.
:mod:`fleetcore_azure.testing` simulates Azure.
"""

__version__ = "0.1.0"
