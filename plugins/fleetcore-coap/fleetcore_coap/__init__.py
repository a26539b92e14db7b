"""CoAP for devices: ``/device/v1`` over DTLS with certificates or keys as a fleetcore protocol plugin, and a client.

This package is only the wire: an association becomes a credential, a request a message, an outcome a code.
:class:`fleetcore.interfaces.DevicePlane` decides what is stored, who may send and what waits.
"""

__version__ = "0.1.0"
