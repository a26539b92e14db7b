"""``[listeners]``: how long peers may take and how many connections they may have, the same for every listener."""

from attrs import field, frozen, validators

_SECONDS = validators.and_(validators.gt(0.0), validators.le(86_400.0))


@frozen(kw_only=True)
class ListenerLimits:
    """The limits of every listener: devices over HTTP, MQTT and WebSocket, and the operators' API.

    Attributes:
        handshakes: TLS handshakes of one listener under way at once. The others wait: addresses take turns, and within
            an address the order is first come, first served. Their deadline begins with their turn.
        handshake_s: from a handshake's turn to its end. When a whole fleet reconnects, its peers may be slow too; a
            stalled handshake delays no others but costs a connection.
        head_s: from connecting to the first byte, and from there to a whole header section, or a whole CONNECT.
        body_s: from the header section to the end of a body; at the operators' API, which has uploads of authenticated
            peers, from piece to piece.
        idle_s: a connection over HTTP without a request is closed after this (the API: after 75 s at most).
        unread_s: a peer that reads nothing of what it is sent for this long is disconnected.
        per_address: connections of one address to one listener; 0 means three quarters of the listener's connections.
        per_identity: connections and long polls of one device, and requests under way of one operator.
        reserve: file descriptors that listeners leave to the store, the control socket and the rest of the process; 0
            means an eighth of the process's limit, 64 to 1024.
    """

    handshakes: int = field(default=32, validator=validators.ge(1))
    handshake_s: float = field(default=30.0, validator=_SECONDS)
    head_s: float = field(default=10.0, validator=_SECONDS)
    body_s: float = field(default=30.0, validator=_SECONDS)
    idle_s: float = field(default=1200.0, validator=_SECONDS)
    unread_s: float = field(default=30.0, validator=_SECONDS)
    per_address: int = field(default=0, validator=validators.ge(0))
    per_identity: int = field(default=64, validator=validators.ge(1))
    reserve: int = field(default=0, validator=validators.ge(0))
