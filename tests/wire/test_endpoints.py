"""What a listener calls itself, and where it is reached."""

import pytest

from fleetcore.wire.endpoints import reachable


@pytest.mark.parametrize(
    ("url", "host", "wanted"),
    [
        ("https://0.0.0.0:8443", "fleet.example", "https://fleet.example:8443"),
        ("mqtts://[::]:8883", "::1", "mqtts://[::1]:8883"),
        ("https://192.0.2.7:8443", "fleet.example", "https://192.0.2.7:8443"),
        ("https://10.0.0.0:8443/x", "h", "https://10.0.0.0:8443/x"),
    ],
)
def test_a_wildcard_gives_way_to_a_name_that_can_be_reached(url, host, wanted):
    assert reachable(url, host) == wanted
