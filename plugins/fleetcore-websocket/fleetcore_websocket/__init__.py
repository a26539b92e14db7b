"""Devices over WebSocket: the subprotocols ``fleetcore.v1`` (JSON) and ``fleetcore.v1.cbor``, and the device's side.

Only wire: a connection becomes a credential, a frame a message, an outcome a reply. What is stored, who may speak and
what waits is decided behind :class:`fleetcore.interfaces.DevicePlane`.
"""

__version__ = "0.1.0"
