"""Devices over WebSocket: the subprotocols ``fleetcore.v1`` (JSON) and ``fleetcore.v1.cbor``, and a device client.

This package is only the wire: a connection becomes a credential, a frame a message, an outcome a reply.
:class:`fleetcore.interfaces.DevicePlane` decides what is stored, who may send and what waits.
"""

__version__ = "0.1.0"
