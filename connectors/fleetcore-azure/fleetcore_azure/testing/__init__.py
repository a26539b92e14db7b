"""A counterpart of Azure IoT Hub for tests and for trying by hand: HTTPS, in dictionaries, as strict as the service."""
