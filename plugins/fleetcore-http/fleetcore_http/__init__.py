"""HTTP for devices: ``/device/v1`` as a fleetcore protocol plugin, and the device's side of it.

Only wire: a connection becomes a credential, a request a message, an outcome a status. What is stored, who may speak
and what waits is decided behind :class:`fleetcore.interfaces.DevicePlane`. The operators' API is another plugin.
"""

__version__ = "0.1.0"
