"""HTTP for devices: ``/device/v1`` as a fleetcore protocol plugin, and a device client.

This package is only the wire: a connection becomes a credential, a request a message, an outcome a status.
:class:`fleetcore.interfaces.DevicePlane` decides what is stored, who may send and what waits. The operators' API is
another plugin.
"""

__version__ = "0.1.0"
