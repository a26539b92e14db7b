"""The source of a datagram: the number of our socket, and the address as the system reports it."""

from fleetcore.listening.addresses import network

Address = tuple[object, ...]


def network_of(address: Address) -> str:
    """The network of an address, as limits count addresses."""
    where = address[1]
    assert isinstance(where, tuple)
    return network(str(where[0]))


def name_of(address: Address) -> str:
    """The address for people, ``HOST:PORT``."""
    where = address[1]
    assert isinstance(where, tuple)
    host, port = where[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
