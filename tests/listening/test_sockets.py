"""What a host stands for. Guards against addresses of this machine that a listener on all of them does not answer."""

import socket

import pytest

from fleetcore.listening.sockets import bind
from fleetcore.testing.patience import PATIENCE_S


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


#: Containers often have none, not even on loopback.
IPV6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def bound():
    """``bound(host)`` as a listener has it; closed afterwards."""
    opened = []

    def go(host, port=0):
        sockets = bind(host, port)
        opened.extend(sockets)
        for each in sockets:
            each.listen()
        return sockets

    yield go
    for each in opened:
        each.close()


@pytest.mark.parametrize("host", ["::", ""])
@pytest.mark.parametrize("peer", ["127.0.0.1", pytest.param("::1", marks=IPV6)])
def test_all_addresses_are_those_of_both_families_on_one_port(bound, host, peer):
    sockets = bound(host)
    (port,) = {each.getsockname()[1] for each in sockets}

    with socket.create_connection((peer, port), timeout=PATIENCE_S):
        (met,) = [each for each in sockets if each.family == (socket.AF_INET6 if ":" in peer else socket.AF_INET)]
        connection, address = met.accept()
        connection.close()

    assert address[0] == peer


def test_an_ipv4_peer_keeps_its_own_address(bound):
    sockets = bound("::")

    with socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1]), timeout=PATIENCE_S):
        connection, (address, _) = sockets[1].accept()
        connection.close()

    assert address == "127.0.0.1"


@pytest.mark.parametrize(("host", "families"), [
    ("0.0.0.0", {socket.AF_INET}), ("127.0.0.1", {socket.AF_INET}),
    pytest.param("::1", {socket.AF_INET6}, marks=IPV6),
])  # fmt: skip
def test_an_address_is_bound_alone(bound, host, families):
    sockets = bound(host)

    assert {each.family for each in sockets} == families
    assert [each.getsockname()[0] for each in sockets] == [host]


def test_a_port_that_is_taken_in_one_family_is_refused_and_leaves_nothing_open(bound):
    (taken,) = bound("0.0.0.0")
    port = taken.getsockname()[1]

    with pytest.raises(OSError, match="in use"):
        bind("::", port)

    with socket.socket(socket.AF_INET6) as free:
        free.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        free.bind(("::", port))


def test_an_empty_host_does_without_ipv6_where_the_system_has_none(monkeypatch):
    real = socket.socket

    def without(family=socket.AF_INET, *rest):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", without)

    (only,) = bind("", 0)

    with only:
        assert only.getsockname()[0] == "0.0.0.0"
    with pytest.raises(OSError, match="not supported"):
        bind("::", 0)
