"""What a peer observes: one notification at a time, of the newest state (RFC 7641)."""

from fleetcore_coap.codec import Kind, Method, Packet
from fleetcore_coap.observations import MAX, Observations

from fleetcore.wire import messages


def request(token):
    return Packet(kind=Kind.CON, code=Method.GET, token=token)


def test_changes_that_come_while_a_notification_is_outstanding_are_one():
    observations = Observations()
    observations.begin(request(b"a"), messages.COMMAND, "dev1")
    observations.changed(messages.COMMAND, "dev1")
    first = observations.take()
    for _ in range(5):
        observations.changed(messages.COMMAND, "dev1")

    assert observations.take() is None
    observations.outstanding = False
    assert observations.take() is first
    observations.outstanding = False
    assert observations.take() is None


def test_only_the_state_that_changed_is_told():
    observations = Observations()
    observations.begin(request(b"a"), messages.COMMAND, "dev1")

    assert not observations.changed(messages.FIRMWARE, "dev1")
    assert not observations.changed(messages.COMMAND, "leaf1")
    assert observations.take() is None


def test_one_that_changes_all_the_time_does_not_starve_another():
    observations = Observations()
    busy = observations.begin(request(b"a"), messages.COMMAND, "dev1")
    quiet = observations.begin(request(b"b"), messages.FIRMWARE, "dev1")
    told = []
    observations.changed(messages.FIRMWARE, "dev1")
    for _ in range(4):
        observations.changed(messages.COMMAND, "dev1")
        told.append(observations.take())
        observations.outstanding = False

    assert told[:2] == [busy, quiet]


def test_a_registration_with_a_token_again_takes_its_place_and_goes_on_counting():
    observations = Observations()
    first = observations.begin(request(b"a"), messages.COMMAND, "dev1")
    first.next()
    again = observations.begin(request(b"a"), messages.COMMAND, "dev1")

    assert len(observations) == 1
    assert again.next() == 2


def test_observations_of_a_peer_are_bounded():
    observations = Observations()
    made = [observations.begin(request(b"%d" % number), messages.COMMAND, "dev1") for number in range(MAX + 1)]

    assert None not in made[:MAX]
    assert made[MAX] is None
