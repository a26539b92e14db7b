"""CoAP for devices: ``/device/v1`` over DTLS with certificates or keys as a fleetcore protocol plugin, and a client.

Only wire: an association becomes a credential, a request a message, an outcome a code. What is stored, who may speak
and what waits is decided behind :class:`fleetcore.interfaces.DevicePlane`.
"""

__version__ = "0.1.0"
