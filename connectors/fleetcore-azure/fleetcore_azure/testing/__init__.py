"""A simulated Azure IoT Hub for tests and for manual use: HTTPS, in memory, as strict as the service."""
